"""The attacked network in its attack form: mode, frozen parameters, folded BatchNorm and precision in one place."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn

from ardbench.config import Precision

OF_TIMM = "timm.layers.norm_act.BatchNormAct2d"
"""The BatchNorm of timm that activates; by its name, so that timm is loaded by its own networks alone."""


def computes_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for bf16, so that it is faster in it than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def frozen(net: nn.Module, mode: str, update: bool = True) -> Iterator[None]:
    """Hold `net` still while it is attacked, and put back every sub-module's mode and every requires_grad after it.

    Args:
        mode: "eval" uses running statistics everywhere; "train" leaves each sub-module in the mode it is in.
        update: with "train", whether a forward may move the running statistics.
    """
    modules = list(net.modules())  # each walk over a network, and each attribute that is set, takes the host its time
    modes = [(module, module.training) for module in modules]
    learns = [(p, p.requires_grad) for module in modules for p in module._parameters.values() if p is not None]
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    try:
        for parameter, learning in learns:
            if learning:
                parameter.requires_grad_(False)
        if mode == "eval":
            net.eval()
        elif not update:
            for norm in norms:
                norm.track_running_stats = not norm.training  # batch statistics, none recorded
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training
        for parameter, learning in learns:
            if parameter.requires_grad != learning:
                parameter.requires_grad_(learning)
        for norm in norms:
            if not norm.track_running_stats:
                norm.track_running_stats = True


class FastForm:
    """A copy of a network for eval-mode forwards: BatchNorms folded into convolutions, weights cast once.

    The same function of x to rounding (fp32: relative error near 3e-7; bf16: as autocast). `refresh` brings in the
    network's present weights; it must be called after they change and before the copy is used.

    Args:
        net: the network that is copied; it is never touched.
        bf16: whether convolutions and linear layers compute in bf16.
        precision: whether BatchNorms are folded, the memory layout, and whether code is generated for it.
    """

    def __init__(self, net: nn.Module, bf16: bool, precision: Precision) -> None:
        self.bf16 = bf16
        graph = _trace(net) if precision.fold_bn else None
        self._copy: nn.Module = copy.deepcopy(graph if graph is not None else net).eval().requires_grad_(False)
        folded = _fold(self._copy) if isinstance(self._copy, fx.GraphModule) else {}
        if bf16:
            for module in self._copy.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        if precision.channels_last:
            self._copy.to(memory_format=torch.channels_last)
        self._pairs = [(_conv(self._copy, conv), _conv(net, conv), _norm(net, bn)) for conv, bn in folded.items()]
        originals = dict(net.named_parameters()) | dict(net.named_buffers())
        kept = {
            name: tensor
            for name, tensor in (*self._copy.named_parameters(), *self._copy.named_buffers())
            if name.rpartition(".")[0] not in folded
        }
        # what is no buffer of the network, such as a plain tensor in its forward, is a constant of its graph
        self._kept = [(tensor, originals[name]) for name, tensor in kept.items() if name in originals]
        self._forward = torch.compile(self._copy, dynamic=False) if precision.compile else self._copy
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the network's present parameters and statistics into the copy."""
        if self._pairs:
            ours, convs, norms = zip(*self._pairs, strict=True)
            spread = torch._foreach_add([bn.running_var for bn in norms], [bn.eps for bn in norms])
            scale = torch._foreach_mul([bn.weight for bn in norms], torch._foreach_rsqrt(spread))  # (channels,) each
            moved = torch._foreach_mul([bn.running_mean for bn in norms], scale)
            shift = [
                shift if conv.bias is None else shift + conv.bias * by
                for conv, shift, by in zip(
                    convs, torch._foreach_sub([bn.bias for bn in norms], moved), scale, strict=True
                )
            ]
            weights = torch._foreach_mul([conv.weight for conv in convs], [s[:, None, None, None] for s in scale])
            torch._foreach_copy_([conv.weight for conv in ours], weights)
            torch._foreach_copy_([conv.bias for conv in ours], shift)
        _copy_all(self._kept)

    def settled(self) -> FastForm:
        """Return this copy, from now on without its source, whose memory may then be freed: for a trained teacher."""
        self._pairs, self._kept = [], []
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Return fp32 logits (B, K) of x (B, C, H, W)."""
        if not self.bf16:
            return self._forward(x)  # type: ignore[no-any-return]
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self._forward(x)
        return logits.float()


class CastForm:
    """A network in train mode under bf16 autocast, its weights cast once and not in each forward: the same to the bit.

    Only convolutions and linear layers are copies; BatchNorms and everything else are the network's own, so that a forward
    moves its running statistics. `refresh` casts the present weights and takes over the present modes.

    Args:
        net: the network; it is never touched but by what its own parts do in a forward.
    """

    def __init__(self, net: nn.Module) -> None:
        cast = {module for module in net.modules() if type(module) in (nn.Conv2d, nn.Linear)}
        parts = {id(module): module for module in net.modules() if cast.isdisjoint(module.modules())}
        tensors = (t for m in net.modules() if m not in cast for t in (*m._parameters.values(), *m._buffers.values()))
        shared: dict[int, object] = {id(tensor): tensor for tensor in tensors if tensor is not None}
        self._copy = copy.deepcopy(net, shared | parts)
        self._modes = [(a, b) for a, b in zip(self._copy.modules(), net.modules(), strict=True) if a is not b]
        self._cast: list[tuple[Tensor, Tensor]] = []
        for ours, module in self._modes:
            if module in cast:
                ours.to(torch.bfloat16).requires_grad_(False)
                self._cast += zip(ours.parameters(), module.parameters(), strict=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the network's present weights and modes into the copy."""
        for ours, module in self._modes:
            if ours.training != module.training:
                ours.training = module.training
        _copy_all(self._cast)

    def __call__(self, x: Tensor) -> Tensor:
        """Return fp32 logits (B, K) of x (B, C, H, W)."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self._copy(x)
        return logits.float()


def _copy_all(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair into the first."""
    if pairs:
        ours, theirs = zip(*pairs, strict=True)
        torch._foreach_copy_(ours, theirs)


class _Tracer(fx.Tracer):
    """Takes every BatchNorm2d as a whole, also one of ours."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether the graph calls the module instead of what is in it."""
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _trace(net: nn.Module) -> fx.GraphModule | None:
    """Return the network's graph, or None where it has no BatchNorm2d to fold or cannot be traced."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        return None
    try:
        with frozen(net, "eval"):  # what a forward asks of its mode becomes a constant of the graph
            return fx.GraphModule(net, _Tracer().trace(net))
    except (
        Exception
    ):  # control flow on values, or whatever else a stranger's forward does with something that is no tensor
        return None  # the copy then keeps its BatchNorms, the function is the same


def _fold(graph: fx.GraphModule) -> dict[str, str]:
    """Drop from `graph` each BatchNorm2d that alone reads a convolution; return {convolution: BatchNorm} by name."""
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    uses = Counter(str(node.target) for node in calls)
    folded: dict[str, str] = {}
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        source, name = str(before.target), str(node.target)
        if uses[source] != 1 or uses[name] != 1:
            continue  # shared weights: one folded copy could not serve both places
        conv, bn = graph.get_submodule(source), graph.get_submodule(name)
        if type(conv) is nn.Conv2d and folds(bn) and len(before.users) == 1:
            conv.bias = nn.Parameter(torch.zeros_like(bn.bias), requires_grad=False)
            folded[source] = name
            if activates(bn):
                parts = OrderedDict((part, bn.get_submodule(part)) for part in ("drop", "act"))
                graph.set_submodule(
                    name, nn.Sequential(parts)
                )  # under their names, by which weights of theirs are kept
                continue
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return folded


def folds(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Return whether a module is a BatchNorm and nothing more in eval mode, or one of timm with its activation after it."""
    plain = type(norm) is nn.BatchNorm2d or getattr(type(norm), "plain_in_eval", False)
    return (plain or activates(norm)) and bool(norm.affine and norm.track_running_stats)


def activates(norm: nn.Module) -> bool:
    """Return whether a module is a BatchNorm whose parts `drop` and `act` follow, and nothing more in eval mode."""
    kind = type(norm)
    return f"{kind.__module__}.{kind.__name__}" == OF_TIMM or getattr(kind, "activates_in_eval", False)


def _conv(net: nn.Module, name: str) -> nn.Conv2d:
    module = net.get_submodule(name)
    assert isinstance(module, nn.Conv2d)
    return module


def _norm(net: nn.Module, name: str) -> nn.BatchNorm2d:
    module = net.get_submodule(name)
    assert isinstance(module, nn.BatchNorm2d)
    return module
