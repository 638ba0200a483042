"""The sections of a recipe. Everything is required unless leaving it out has one obvious meaning.

This module imports nothing of ardbench; the `[method]` section is validated by the method's own `Config` when
`ardbench.recipes.resolve` puts a recipe together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

HUGE = re.compile(r"e[+-]?[0-9_]{4}|.{50}", re.IGNORECASE | re.DOTALL)
"""A number whose digits would fill the memory when it is written as a fraction, such as 1e999999999."""


def parse_number(value: object) -> object:
    """Read a number that may be written as a fraction in a string, such as "8/255"."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    if isinstance(value, str):
        try:
            if HUGE.search(value):
                raise OverflowError
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(f"{value[:60]!r} is neither a number nor a fraction such as '8/255'") from None
    return value


def in_pixels(size: float) -> str:
    """Return a size in pixel units, as a fraction of 255 where it is a whole one."""
    steps = size * 255
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 1e-9 else f"{size:g}"


LARGEST = 2**53
"""The largest whole number of a file: up to here a float holds every one."""
Count = Annotated[int, Field(ge=0, le=LARGEST, strict=True)]
"""A whole number; strict, since `true` would count as 1."""
AtLeastOne = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]
Number = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
"""A share of the run: "215/300" is the start of epoch 215 of 300, and of epoch 6 of 9."""


EXTRA = "extra"
"""What a composition says of training with images besides the data set's."""


def epoch_at(share: float, epochs: int) -> int:
    """Return the epoch (from 0) whose start lies nearest to `share` of a run of `epochs` epochs."""
    return round(share * epochs)


class Section(BaseModel):
    """A section of a recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Fields that came when runs were already there: at its default such a field is not written, so that a run from before
    keeps its name. The default of one never changes."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        absent = {
            name for name in self.LATER if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {key: value for key, value in written.items() if key not in absent}


def _perturbs(gamma: float) -> float:
    if not 0 < gamma <= 1:
        raise ValueError(
            "it is a share of each weight tensor's norm: give a number above 0 and up to 1, or no [weight_perturbation]"
        )
    return gamma


class MethodConfig(Section):
    """What every method's own `Config` starts from: the name by which the registry knows the method."""

    name: str


def _has_both(order: tuple[str, ...]) -> tuple[str, ...]:
    if order and len(set(order)) < 2:
        raise ValueError(
            'it names every forward of a step: give both "x" and "x_adv", or [] for those that the loss needs'
        )
    return order


Point = Literal["x", "x_adv"]
"""Where a network is asked: at the clean images or at the adversarial ones."""
Forwards = Annotated[tuple[Point, ...], AfterValidator(_has_both)]
"""Forwards of the student in train mode in one step, in order: each is an update of its running statistics, also where
the loss has no use for its logits. () makes those that the loss needs, once each."""


class ReleasedConfig(MethodConfig):
    """What the `Config` starts from of a method whose released script forwards the student otherwise than its loss needs."""

    LATER = frozenset({"forwards"})
    forwards: Forwards = ()


class ModuleConfig(Section):
    """What every module's own `Config` starts from: the name by which the registry knows the module."""

    name: str


class Data(Section):
    """Which data set, how much of its training set validates, and how training images are augmented."""

    LATER = frozenset({"crop_area", "place", "workers", "extra", "extra_share", "extra_sha256", "sha256"})
    SAME: ClassVar[frozenset[str]] = frozenset({"place", "workers", "extra"})
    """What brings the same images by another way, and so is no part of a run's identity."""

    name: str
    validation: Count
    """Images held out of the training set, by class, with the data set's own seed; 0 trains on everything."""
    augment: Literal["crop-flip", "crop", "resized-crop-flip", "resized-crop", "none"]
    """crop: of the image padded with zeros. resized-crop: a part of the image, of random area and shape, made as large."""
    crop_area: Annotated[Number, Field(gt=0, le=1)] = 0.08
    """resized-crop: the least share of an image's area that is shown; the largest is all of it."""
    batch: AtLeastOne
    drop_last: bool = False
    """Drop the last incomplete batch of an epoch."""
    train_images: AtLeastOne | None = None
    """Train on a class-balanced subset of this many images, drawn with the data set's own seed; None takes all."""
    normalise: bool = False
    """Whether the student's first layer subtracts the data set's mean and divides by its deviation."""
    place: Literal["auto", "device", "host", "files"] = "auto"
    """Where images lie: on the device, on the host (batches are copied ahead), or in their files (and are decoded each time);
    auto: the first of these that has room."""
    workers: AtLeastOne | None = None
    """Processes that decode images which lie in their files; None takes one for each processor but one."""
    extra: str | None = None
    """More training images, "npz:FILE", such as generated ones; `extra_sha256` names their arrays, wherever FILE lies."""
    extra_share: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """How much of each batch they are. An epoch is counted in original images, and shows each of these once."""
    extra_sha256: str | None = None
    """Of the arrays; it is found out where it is not given."""
    sha256: str | None = None
    """Of one's own images, whose folder may be called otherwise elsewhere; it is found out."""

    @property
    def called(self) -> str:
        """The name without the folders in which one's own images lie."""
        return re.sub(r"^(folder|npz):.*/(?=[^/?]+/*($|\?))", r"\1:", self.name)

    @model_validator(mode="after")
    def _crops_an_area(self) -> Data:
        if self.crop_area != type(self).model_fields["crop_area"].default and "resized" not in self.augment:
            raise ValueError(
                f"crop_area is for augment = 'resized-crop-flip' or 'resized-crop', not for {self.augment!r}"
            )
        return self

    @model_validator(mode="after")
    def _shares_a_batch(self) -> Data:
        if (self.extra is None) != (self.extra_share is None):
            raise ValueError("extra = 'npz:FILE' and extra_share, how much of each batch it is, go together")
        if self.extra_share is not None and not 0 < round(self.extra_share * self.batch) < self.batch:
            raise ValueError(
                f"extra_share = {self.extra_share:g} of a batch of {self.batch} leaves no original or no extra image: change it"
            )
        return self


class Threat(Section):
    """What the attacker may do: a ball of radius eps around x, inside the pixel box [0, 1]."""

    norm: Literal["linf", "l2"]
    eps: Annotated[Number, Field(ge=0, le=1e6)]

    @model_validator(mode="after")
    def _fits_its_norm(self) -> Threat:
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(
                f"eps = {self.eps:g} is larger than any pixel, which lie in [0, 1]: give a fraction such as '8/255'"
            )
        return self


PGD = "pgd"
ONE_STEP = {"n-fgsm": "wide", "nuat": "signs"}
"""Kinds of attack that are one step of eps, each from a start of its own."""


class Attack(Section):
    """How the inner maximisation searches during training. `step_size` is in pixel units, as `eps` is."""

    LATER = frozenset({"kind"})
    kind: Literal["pgd", "n-fgsm", "nuat"] = "pgd"
    """pgd: steps that are projected to the ball. n-fgsm: one that is not. nuat: one, on the objective and the nuclear norm
    of S(x'') - S(x). These two decide what is left out of steps, step_size and start (`Recipe`)."""
    steps: Count
    step_size: Positive
    start: Literal["uniform", "normal", "none", "wide", "signs"]
    """wide: uniform in twice the ball, of n-fgsm; signs: a corner of half the ball, of nuat. Neither heeds the box."""
    bn: Literal["eval", "train"]
    """The mode of the attacked network while it is attacked; `train` uses batch statistics."""
    bn_update: bool = True
    """With bn = train: whether each crafting forward also moves the running statistics, as released."""
    restarts: AtLeastOne = 1

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Attack:
        own = ONE_STEP.get(self.kind)
        if own is not None and (self.steps, self.restarts, self.start) != (1, 1, own):
            raise ValueError(
                f"kind = {self.kind!r} is one step from a start of its own: leave steps, restarts and start out"
            )
        if own is None and self.start in ONE_STEP.values():
            kind = next(kind for kind, start in ONE_STEP.items() if start == self.start)
            raise ValueError(f"start = {self.start!r} belongs to kind = {kind!r}: give 'uniform', 'normal' or 'none'")
        return self


class Optimizer(Section):
    """SGD or AdamW (which transformers want), one per trainable of the method."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Positive
    momentum: Annotated[Number, Field(ge=0, lt=1)]
    """sgd: momentum; adamw: beta1, beta2 being torch's."""
    weight_decay: NonNegative
    nesterov: bool = False
    clip: Positive | None = None
    """Largest L2 norm of the gradient of each trainable; None never clips."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Optimizer:
        if self.kind == "adamw" and self.nesterov:
            raise ValueError("kind = 'adamw' takes no nesterov")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        return self


class Rates(Section):
    """How a learning rate moves. Milestones are shares of the run."""

    LATER = frozenset({"begin", "damping", "first"})
    kind: Literal["constant", "step", "cosine", "onecycle"]
    milestones: tuple[Share, ...] = ()
    gamma: Annotated[Number, Field(gt=0, le=1)] | None = None
    """step: the factor at each milestone."""
    first: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """step: the factor in the first epoch alone."""
    warmup: Share = 0.0
    """onecycle: the share of the run in which the learning rate rises linearly from 0."""
    begin: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """cosine: the share of the run that is over when the rate begins to fall."""
    damping: NonNegative = 0.0
    """cosine: d of a further factor exp(-d z^2), z from 0 to 1 while the rate falls."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "step" and (not self.milestones or self.gamma is None):
            raise ValueError("kind = 'step' needs milestones and gamma")
        if self.kind != "step" and (self.milestones or self.gamma is not None):
            raise ValueError(f"kind = {self.kind!r} takes no milestones and no gamma")
        if self.kind != "step" and self.first != 1:
            raise ValueError(f"kind = {self.kind!r} takes no rate of its own for the first epoch")
        if self.kind != "onecycle" and self.warmup:
            raise ValueError(f"kind = {self.kind!r} takes no warmup")
        if self.kind != "cosine" and (self.begin or self.damping):
            raise ValueError(f"kind = {self.kind!r} takes no begin and no damping, which are of kind = 'cosine'")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError("milestones must rise")
        return self


class Schedule(Rates):
    """How long, and how the learning rate moves."""

    epochs: AtLeastOne


class Trainable(Section):
    """How a network that is trained beside the student learns, in place of [optimizer] and [schedule]."""

    optimizer: Optimizer | None = None
    schedule: Rates | None = None
    """Neither given: as the student's."""
    begin: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """The share of the run before which its optimizer makes no step."""


class Selection(Section):
    """What picks the `best` checkpoint. The last one is always kept and reported too."""

    LATER = frozenset({"threat", "patience", "score"})
    by: Literal["last", "best-val", "best-test"]
    protocol: str
    """The protocol whose accuracy is compared; also the robust accuracy in metrics.jsonl."""
    every: AtLeastOne = 1
    start: Share = 0.0
    threat: Threat | None = None
    """In place of [evaluation]."""
    score: Literal["robust", "weighted"] = "robust"
    """What is highest at `best`: that accuracy, or its mean with the clean one."""
    patience: AtLeastOne | None = None
    """End the run after so many validations in a row that were no better than the best before; [schedule] does not change."""

    @model_validator(mode="after")
    def _waits_for_a_better_one(self) -> Selection:
        if self.patience is not None and self.by == "last":
            raise ValueError("patience waits for a better checkpoint: by = 'best-val' or 'best-test' goes with it")
        return self

    def scored(self, row: Mapping[str, Any]) -> float | None:
        """Return what of a row of metrics.jsonl is compared, or None where that was not measured."""
        where = "test" if self.by == "best-test" else "val"
        robust: float | None = row.get(f"{where}_robust")
        if robust is None or self.score == "robust":
            return robust
        return float(row[f"{where}_clean"] + robust) / 2

    def exhausted(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether a run of these rows of metrics.jsonl ends by its `patience`."""
        found = [score for row in rows if (score := self.scored(row)) is not None]
        return self.patience is not None and bool(found) and len(found) - 1 - found.index(max(found)) >= self.patience


class Average(Section):
    """An average of the student's weights, saved and reported as its own checkpoint."""

    kind: Literal["none", "swa", "ema"] = "none"
    start: Share = 0.0
    decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """ema: weight of the old average at each step."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Average:
        if (self.kind == "ema") != (self.decay is not None):
            raise ValueError("decay is needed by kind = 'ema' and by no other")
        return self


class WeightPerturbation(Section):
    """A second pass of each step at weights that were moved to where the loss is larger; any method, any teacher."""

    gamma: Annotated[Number, AfterValidator(_perturbs)]
    """Norm of the move of each tensor, as a share of the tensor's own."""
    begin: Share = 0.0
    """The share of the run that is trained without it."""
    variant: Literal["awp", "sam-like"] = "awp"
    """awp: weights of convolutions and linear layers; the optimizer steps at the moved weights, whose pass alone moves the
    running statistics. sam-like: every parameter; weights are put back before the optimizer steps, and the first pass
    moves the statistics."""


class Precision(Section):
    """Arithmetic of the inner maximisation and of the outer step; weights, losses and projections stay fp32."""

    SAME: ClassVar[frozenset[str]] = frozenset({"compile", "cuda_graph", "cache_gb", "cache_disk"})
    """What computes the same numbers to rounding in another way, and so is no part of a run's identity."""

    attack: Literal["fp32", "bf16"] = "fp32"
    outer: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False
    """Whether CUDA may round the inputs of fp32 convolutions and products to TF32."""
    channels_last: bool = True
    fold_bn: bool = True
    """Attacks in eval mode run on a copy whose BatchNorms are folded into the convolutions."""
    compile: bool = False
    """Whether torch.compile generates code for the attacked copy and for the networks that are trained."""
    cuda_graph: bool | Literal["auto"] = False
    """On CUDA, whether an attack is captured once and replayed; auto: where that is known to serve."""
    cache_gb: NonNegative = 4.0
    """GB (10^9 bytes) that teachers' logits at augmented clean images may take on the device; 0 asks again each time."""
    cache_disk: bool = False
    """Whether these logits are kept beside the runs, for other methods, students and seeds."""


class Start(Section):
    """Where the student begins, in place of fresh weights."""

    kind: Literal["init", "extend"] = "init"
    """init: with the weights of a run or a file. extend: where a finished run ended, with all its state."""
    source: str
    """What was typed: RUN, RUN@CHECKPOINT, FILE, FILE:ARCH and what else teaches; extend: RUN."""
    identity: str = ""
    """What of it enters the run's: the sha256 of weights, or the identity of the run that goes on; found out if not given."""


class Recipe(Section):
    """A resolved recipe: everything that decides a run but its teachers' weights."""

    LATER = frozenset({"keep_every", "modules", "trainables", "weight_perturbation", "start", "outside"})
    WORDS: ClassVar[tuple[str, ...]] = ("name", "title", "family", "diagnostics", "keep_every")
    """Fields that decide no result: what a run is called, and what is kept or told of it."""
    name: str
    title: str
    family: Literal["as-released", "level", "own"]
    student: str
    seed: Count = 0
    data: Data
    threat: Threat
    evaluation: Threat
    """The threat under which the trained network is measured."""
    attack: Attack | None = None
    """None for methods without an inner maximisation."""
    optimizer: Optimizer
    schedule: Schedule
    trainables: dict[str, Trainable] = {}
    """By the method's name for it: a trainable beside the student that learns otherwise than [optimizer] and [schedule] say."""
    selection: Selection
    average: Average = Average()
    precision: Precision = Precision()
    method: dict[str, Any]
    modules: tuple[dict[str, Any], ...] = ()
    """What is laid over the method, in this order."""
    weight_perturbation: WeightPerturbation | None = None
    start: Start | None = None
    sync_bn: bool = True
    """With several processes, whether BatchNorm uses the statistics of the global batch, as one process does, or of each
    process's own rows; running statistics are then averaged after each step."""
    keep_every: AtLeastOne | None = None
    """Keep the weights after every so many epochs as checkpoints epoch-N; the training is the same."""
    outside: dict[str, str] = {}
    """The sha256 of the source of each method, module, network and data set from outside, such as {"model:my-net": ...}; it is
    found out, and where it is given, another source is refused."""
    diagnostics: bool = False
    """Log for each epoch who of teachers and peer is right on x and on the student's x'; the training is the same."""

    @model_validator(mode="before")
    @classmethod
    def _steps_once(cls, given: Any) -> Any:
        """Fill in what a kind of attack decides by itself."""
        attack, threat = (given.get(key) for key in ("attack", "threat")) if isinstance(given, dict) else (None, None)
        if not isinstance(attack, dict) or not isinstance(threat, dict) or "eps" not in threat:
            return given
        start = ONE_STEP.get(str(attack.get("kind")))
        decided = {"steps": 1, "step_size": threat["eps"], "start": start} if start is not None else {}
        return {**given, "attack": decided | attack}

    @field_validator("name")
    @classmethod
    def _names_a_directory(cls, value: str) -> str:
        if not value or value.startswith(".") or not value.isprintable() or {"/", "\\"} & set(value):
            raise ValueError("it begins the name of the run directory: give one without slashes, such as my-recipe")
        if len(value.encode()) > 120:
            raise ValueError("it begins the name of the run directory: give one of at most 120 bytes")
        return value

    @field_validator("method")
    @classmethod
    def _is_named(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("name"), str):
            raise ValueError("[method] needs a name")
        return value

    @field_validator("modules", mode="before")
    @classmethod
    def _are_named_once(cls, value: Any) -> Any:
        tables = value if isinstance(value, list | tuple) else [value]
        names = [one.get("name") if isinstance(one, dict) else None for one in tables]
        if tables is not value or not all(isinstance(name, str) for name in names):
            raise ValueError('each module is a table with a name: write [[modules]], and name = "igdm" below it')
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the module {twice[0]} is named twice: name it once")
        return value

    @property
    def composition(self) -> str:
        """What trains, in one word: the method and what goes with it, such as "rslad+igdm", "trades+awp" or "trades+extra"."""
        perturbed = [self.weight_perturbation.variant] if self.weight_perturbation else []
        extra = [EXTRA] if self.data.extra else []
        return "+".join([self.method["name"], *(one["name"] for one in self.modules), *perturbed, *extra])

    @model_validator(mode="after")
    def _steps_in_its_norm(self) -> Recipe:
        if self.attack is not None and self.attack.kind in ONE_STEP and self.threat.norm != "linf":
            raise ValueError(
                f"attack.kind = {self.attack.kind!r} is a step of signs, and threat.norm = {self.threat.norm!r}: give 'linf', "
                "or attack.kind = 'pgd' with its steps, step_size and start"
            )
        return self

    @model_validator(mode="after")
    def _selects_on_something(self) -> Recipe:
        if self.selection.by == "best-val" and not self.data.validation:
            raise ValueError("selection.by = 'best-val' needs data.validation > 0")
        return self

    @model_validator(mode="after")
    def _averages_something(self) -> Recipe:
        epochs = self.schedule.epochs
        if self.average.kind != "none" and epoch_at(self.average.start, epochs) >= epochs:
            raise ValueError(
                f"average.start = {self.average.start:g} leaves none of {epochs} epochs to average: lower it"
            )
        return self

    @model_validator(mode="after")
    def _perturbs_something(self) -> Recipe:
        epochs, wanted = self.schedule.epochs, self.weight_perturbation
        if wanted is not None and epoch_at(wanted.begin, epochs) >= epochs:
            raise ValueError(
                f"weight_perturbation.begin = {wanted.begin:g} leaves none of {epochs} epochs to perturb: lower it"
            )
        return self

    @model_validator(mode="after")
    def _averages_before_it_may_end(self) -> Recipe:
        if self.selection.patience is not None and self.average.kind != "none" and self.average.start > 0:
            raise ValueError(
                f"selection.patience may end the run before average.start = {self.average.start:g}: leave one of them out"
            )
        return self

    def learning(self, name: str) -> tuple[Optimizer, Rates, float]:
        """Return by what, at which rates, and from which share of the run on one of the method's trainables learns."""
        own = self.trainables.get(name, Trainable())
        return own.optimizer or self.optimizer, own.schedule or self.schedule, own.begin

    def identity(self, teachers: Sequence[str] = ()) -> str:
        """Return the hash of what decides the run: the recipe without its descriptions, and its teachers in order."""
        words = dict.fromkeys(self.WORDS, True)
        if self.sync_bn:  # as with one process
            words["sync_bn"] = True
        same = {"data": set(Data.SAME), "precision": set(Precision.SAME), "start": {"source"}}
        science = self.model_dump(mode="json", exclude={**words, **same})
        if self.data.sha256 is not None:  # which says more than a name
            science["data"]["name"] = "own"
        text = json.dumps({"recipe": science, "teachers": list(teachers)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
