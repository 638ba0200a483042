"""Vision transformers for small images, made of timm's parts and in timm's layout.

Source: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; widths of Touvron et al. (DeiT), ICML 2021.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ardbench.models.network import Network

if TYPE_CHECKING:
    from ardbench.data import DatasetInfo


class ViT(Network):
    """A class token and the image's patches through `depth` blocks; the token's output are the features.

    Args:
        width: channels of a token.
        depth: blocks.
        heads: attention heads of a block.
        patch: side of a patch in pixels.
        wide_init: whether weights start from Glorot's uniform and embeddings wide; timm's 0.02 wants long schedules.
    """

    cls_token: Tensor
    pos_embed: Tensor

    def __init__(
        self,
        info: DatasetInfo,
        normalise: bool,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        wide_init: bool = False,
    ) -> None:
        from timm.models.vision_transformer import VisionTransformer

        super().__init__(info, normalise)
        vit = VisionTransformer(
            img_size=info.size,
            patch_size=patch,
            in_chans=info.channels,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        )
        self.register_parameter("cls_token", vit.cls_token)  # (1, 1, width)
        self.register_parameter("pos_embed", vit.pos_embed)  # (1, 1 + patches, width)
        self.patch_embed, self.blocks, self.norm = vit.patch_embed, vit.blocks, vit.norm
        self.head = nn.Linear(width, info.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if wide_init:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(self.patch_embed.proj.weight, std=(info.channels * patch**2) ** -0.5)
            nn.init.normal_(self.pos_embed, std=0.5)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (b, width) of pixels x (b, C, H, W) in [0, 1]."""
        patches = self.patch_embed(self.normalise(x))  # (b, patches, width)
        token = self.cls_token.expand(patches.shape[0], -1, -1)  # (b, 1, width)
        tokens = torch.cat([token, patches], dim=1) + self.pos_embed  # (b, 1 + patches, width)
        features: Tensor = self.norm(self.blocks(tokens))[:, 0]  # (b, width)
        return features


def patch_size(size: int) -> int:
    """Return the side of a patch in pixels: 2 for 8x8, 4 for 32x32, 8 for 64x64."""
    return 2 if size < 32 else size // 8


def vit_micro(info: DatasetInfo, normalise: bool) -> ViT:
    """Return a ViT of width 64 and 2 blocks that learns in minutes, for digits and for a CPU: 0.1 M parameters."""
    patch = max(4, patch_size(info.size))  # 4 patches of an 8x8 image
    return ViT(info, normalise, width=64, depth=2, heads=4, patch=patch, wide_init=True)


def vit_tiny(info: DatasetInfo, normalise: bool) -> ViT:
    """Return ViT-Ti (width 192, 12 blocks): 5.4 M parameters."""
    return ViT(info, normalise, width=192, depth=12, heads=3, patch=patch_size(info.size))


def vit_small(info: DatasetInfo, normalise: bool) -> ViT:
    """Return ViT-S (width 384, 12 blocks): 21.3 M parameters."""
    return ViT(info, normalise, width=384, depth=12, heads=6, patch=patch_size(info.size))
