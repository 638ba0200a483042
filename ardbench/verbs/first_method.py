"""`ardbench new method`: a plugin's file that works as it stands, and a suite that sets it beside RSLAD. Torch-free."""

from __future__ import annotations

from pathlib import Path

from ardbench import methods, plugins, recipes
from ardbench.errors import ArdbenchError
from ardbench.runs import write_atomic

PLUGIN = '''"""{name}: `ardbench --plugin {file} COMMAND ...`; what the parts are is in docs/add-your-method.md."""

from __future__ import annotations

from ardbench.attacks.objectives import label_loss
from ardbench.config import MethodConfig, Share
from ardbench.data.batches import Batch
from ardbench.losses import cross_entropy, kl
from ardbench.methods.base import Method, Step


class {kind}Config(MethodConfig):
    """alpha: share of the adversarial term."""

    alpha: Share


class {kind}(Method[{kind}Config]):
    """The teacher's word at x', the label's at x: replace it by your own.

    min  alpha KL(T(x) || S(x')) + (1 - alpha) CE(S(x), y),    x' = argmax CE(S(x'), y)
    """

    Config = {kind}Config
    roles = ("robust",)
    examples = True

    def step(self, batch: Batch, epoch: int) -> Step:
        """Return the weighted sum of the two means."""
        x_adv = self.maximise(label_loss, batch, aux=(batch.y,))
        adversarial = kl(self.logits(x_adv), self.teacher_logits(batch))  # (b,)
        clean = cross_entropy(self.logits(batch.x), batch.y)  # (b,)
        alpha = self.config.alpha
        return Step.over(alpha * adversarial + (1 - alpha) * clean, {{"kl_adv": adversarial, "ce_clean": clean}})


METHODS = {{"{name}": {kind}}}
RECIPES = {{
    "{name}-digits": {{
        "extends": "rslad-digits",
        "title": "{name} on digits",
        "method": {{"name": "{name}", "alpha": "5/6"}},
    }}
}}
'''

SUITE = """# {name} beside RSLAD: the same teacher, student, schedule and attack. Minutes on two CPU cores:
# ardbench --plugin {file} reproduce {suite}
title = "{name} beside RSLAD on digits"
dataset = "digits"
seeds = [0]
protocols = ["clean", "pgd20"]
runs = [
    {{ name = "teacher", recipe = "pgd-at-digits", student = "resnet8" }},
    {{ name = "rslad", recipe = "rslad-digits", teachers = ["teacher"] }},
    {{ name = "{name}", recipe = "{name}-digits", teachers = ["teacher"] }},
]
"""


def save(name: str, folder: Path) -> tuple[Path, Path, list[str]]:
    """Write the plugin and the suite of a new method, and return both and the commands to type next.

    Raises:
        ArdbenchError: the name is none or is taken, or there are such files.
    """
    kind = "".join(word.capitalize() for word in name.replace(".", "-").replace("_", "-").split("-"))
    if not (plugins.NAME.fullmatch(name) and kind.isidentifier()):
        raise ArdbenchError(f"{name!r} is no name of a method: give one of letters, digits and '-', such as my-loss.")
    if name in methods.available() or f"{name}-digits" in recipes.recipe_names():
        raise ArdbenchError(f"There is a method {name} already: give another name.")
    plugin, suite = folder / f"{name.replace('-', '_')}.py", folder / f"{name}.toml"
    for path in (plugin, suite):
        if path.exists():
            raise ArdbenchError(f"{path} is there already: move it, or give another folder with --out.")
    if not folder.is_dir():
        raise ArdbenchError(f"--out {folder} is no folder: make it first.")
    words = {"name": name, "kind": kind, "file": str(plugin), "suite": str(suite)}
    write_atomic(plugin, PLUGIN.format(**words).encode())
    write_atomic(suite, SUITE.format(**words).encode())
    return plugin, suite, [f"ardbench check {plugin}:{name}", f"ardbench --plugin {plugin} reproduce {suite}"]
