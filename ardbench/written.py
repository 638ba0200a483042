"""What the JSON files of a run hold, as far as a reader relies on it; there may be more in them. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ardbench.untrusted import Line

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ByClass = Annotated[list[Share | None], Field(min_length=2)]
"""An accuracy of each class, None where none of it was seen."""


class Written(BaseModel):
    """A JSON object: numbers are numbers, and finite ones."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Done(Written):
    """The done marker."""

    epochs: int
    seconds: float = 0.0
    images: int = 0
    device: Line = ""
    best_epoch: int = -1
    weights: dict[str, str] = {}


class Peer(Written):
    """What diagnostics tell of the peer; None where nothing was seen."""

    adv: Share | None


class Teacher(Peer):
    """What diagnostics tell of a teacher."""

    both: Share | None
    clean_only: Share | None
    neither: Share | None
    class_clean: ByClass | None
    class_adv: ByClass | None


class Diagnostics(Written):
    """What diagnostics tell of an epoch."""

    teachers: list[Teacher] = []
    peer: Peer | None = None


class Epoch(Written):
    """A row of metrics.jsonl."""

    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    seconds: float = 0.0
    images: int = 0
    images_per_second: float = 0.0
    val_clean: Share = 0.0
    val_robust: Share = 0.0
    test_clean: Share = 0.0
    test_robust: Share = 0.0
    diagnostics: Diagnostics = Diagnostics()


class Said(Written):
    """What a check says of a teacher."""

    check: Line
    level: Line
    reason: Line


class TeacherChecked(Written):
    """What a teacher was found to know before it taught."""

    source: Line
    role: Line
    sha256: Line
    images: Line
    """What it was measured on: validation images or training images."""
    n: Annotated[int, Field(ge=1)]
    threat: dict[Line, float | Line]
    accuracies: dict[Line, Share]
    """By protocol."""
    findings: list[Said]

    @property
    def said(self) -> str:
        """Its accuracies, in words."""
        found = [
            f"{100 * share:.1f} % {'clean' if name == 'clean' else f'under {name}'}"
            for name, share in self.accuracies.items()
        ]
        return f"{' and '.join(found)}, on {self.n} {self.images}"

    @property
    def warnings(self) -> list[str]:
        """What looks wrong, check by check."""
        return [f"{one.check}: {one.reason}" for one in self.findings if one.level == "warning"]


class TeachersChecked(Written):
    """What teachers.json holds."""

    teachers: list[TeacherChecked]


class Environment(Written):
    """What env.json records, and the file of a transferability matrix."""

    ardbench: Line = ""
    torch: Line = ""
    python: Line = ""
    device: Line = ""
    device_name: Line = ""
    processes: Annotated[int, Field(ge=1)] = 1
    git_sha: Line = ""
    git_dirty: bool | None = None
    argv: list[Line] = []
    started: Line = ""
    outside: dict[Line, Line] = {}


def without_folder(word: str) -> str:
    """Return a word of a command line with absolute folders cut off: whose machine it was is nobody's business."""
    return re.sub(r"(^|=)(?:~|/)(?:[^=]*/)?(?=[^/=]+/?$)", r"\1", word)
