"""Wrong command lines and the sentence, or what is distinctive of it, that each must print; the files are `world`'s."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG = "a" * 300
"""No file system takes a name of so many characters."""

RECIPES = {
    "torn": "name = ",
    "empty": "",
    "circle": 'extends = "circle.toml"',
    "parents": 'extends = ["a", "b"]',
    "orphan": 'extends = "pgd-at-digit"',
    "flat": 'extends = "pgd-at-digits"\ndata = 3',
    "unnamed": 'extends = "pgd-at-digits"\nmethod = "rslad"',
    "numbered": 'extends = "pgd-at-digits"\n[method]\nname = 3',
    "variants": 'extends = "pgd-at-digits"\nvariants = 3',
    "variant": 'extends = "pgd-at-digits"\n[variants]\na = 3',
    "nul": 'extends = "a\\u0000.toml"',
    "above": 'extends = "pgd-at-digits"\nname = "../../up"',
    "dated": 'extends = "pgd-at-digits"\nseed = 2020-01-01',
    "deep": "a = " + "[" * 5000 + "]" * 5000,
}

RUN = '[[runs]]\nname = "a"\nrecipe = "pgd-at-digits"\n'
STUDENT = '[[runs]]\nname = "b"\nrecipe = "rslad-digits"\n'
MEASURED = 'title = "T"\nprotocols = ["clean"]\n'
SUITES = {
    "no-runs": MEASURED,
    "no-run": MEASURED + "runs = []",
    "no-seed": MEASURED + "seeds = []\n" + RUN,
    "coloured": MEASURED + "colour = 1\n" + RUN,
    "unknown-protocol": MEASURED.replace("clean", "pgd21") + RUN,
    "unknown-recipe": MEASURED + RUN.replace("digits", "digit"),
    "unknown-teacher": MEASURED + STUDENT + 'teachers = ["c"]',
    "own-teacher": MEASURED + STUDENT + 'teachers = ["b"]',
    "no-teacher": MEASURED + STUDENT,
    "absent-file": MEASURED + STUDENT + 'teachers = ["no.pt:resnet8"]',
    "absent-zoo": MEASURED + STUDENT + 'teachers = ["zoo:nobody"]',
    "robustbench": MEASURED + STUDENT + 'teachers = ["robustbench:x"]',
    "taught-teacher": MEASURED + RUN + RUN.replace('"a"', '"b"') + 'teachers = ["a"]',
    "same-name": MEASURED + RUN + RUN,
    "same-run": MEASURED + RUN + RUN.replace('"a"', '"b"'),
    "upward": MEASURED + RUN.replace('"a"', '"../a"'),
    "misset": MEASURED + RUN + 'set = { "attack.step" = 1 }',
    "unknown-checkpoint": MEASURED + 'checkpoints = ["first"]\n' + RUN,
    "too-many": MEASURED + "n = 361\n" + RUN,
    "few-to-choose": MEASURED + "[transfer]\nsize = 2\n" + RUN,
}
PROTOCOLS = '[mine]\nkind = "pgd"\nversion = 1\n[aa]\nkind = "clean"\nversion = 1\n[kindless]\nversion = 1\n'


def world(root: Path, run: Path) -> None:
    """Fill a folder with a finished run, copies of it that are damaged each in its way, and files of every wrong kind.

    Args:
        root: the empty folder in which the lines are typed.
        run: finished, of the fake data set, with its last checkpoint measured under `clean`.
    """

    def damaged(name: str, damage: Callable[[Path], object]) -> None:
        damage(shutil.copytree(run, root / name))

    def edited(file: str, **changes: Any) -> Callable[[Path], object]:
        def edit(copy: Path) -> None:
            document = json.loads((copy / file).read_text())
            left = {key: value for key, value in (document | changes).items() if value is not None}
            (copy / file).write_text(json.dumps(left))

        return edit

    def written(file: str, text: str) -> Callable[[Path], object]:
        return lambda copy: (copy / file).write_text(text)

    def folder(file: str) -> Callable[[Path], object]:
        return lambda copy: ((copy / file).unlink(), (copy / file).mkdir())

    shutil.copytree(run, root / "run")
    damaged("begun", lambda copy: (copy / "done").unlink())
    damaged("torn-config", written("config.json", '{"identity": '))
    damaged("list-config", written("config.json", "[]"))
    damaged("empty-config", written("config.json", "{}"))
    damaged("deep-config", written("config.json", "[" * 100_000))
    damaged("no-identity", edited("config.json", identity=None))
    damaged("odd-teachers", edited("config.json", teachers=[{"name": 1}]))
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    damaged("odd-model", edited("config.json", recipe=recipe | {"student": "resnet9"}))
    damaged("odd-dataset", edited("config.json", recipe=recipe | {"data": recipe["data"] | {"name": "fakes"}}))
    damaged("torn-done", written("done", "{"))
    damaged("empty-done", written("done", "{}"))
    damaged("odd-done", edited("done", seconds="soon", weights=3))
    damaged("folder-done", folder("done"))
    damaged("torn-metrics", written("metrics.jsonl", '{"epoch": 0\n'))
    damaged("odd-metrics", written("metrics.jsonl", '{"epoch": "first"}\n'))
    damaged("mute-metrics", written("metrics.jsonl", '{"epoch": 0}\n'))
    damaged("folder-metrics", folder("metrics.jsonl"))
    damaged("torn-env", written("env.json", "{"))
    damaged("torn-verdicts", written("eval/last/clean.json", '{"labels": ['))
    damaged("odd-verdicts", edited("eval/last/clean.json", labels=None))
    damaged("odd-threat", edited("eval/last/clean.json", threat={}))
    damaged("odd-trust", written("eval/last/trust.json", "{}"))
    damaged("torn-weights", written("last.safetensors", "torn"))
    damaged("no-weights", lambda copy: [file.unlink() for file in copy.glob("*.safetensors")])
    for name in ("folder", "folder.toml", "full", "runs", "a [bold]name with ünïcode"):
        (root / name).mkdir()
    (root / "full" / "file").touch()
    (root / "cifar-10-batches-py").mkdir()
    (root / "cifar-10-batches-py" / "data_batch_1").write_text("torn")
    shutil.copy(run / "last.safetensors", root / "net.safetensors")
    (root / "cut.safetensors").write_bytes((run / "last.safetensors").read_bytes()[:1000])
    for name, text in {"file": "words", "words.pt": "words", "empty.pt": "", "page.pt": "<!DOCTYPE html>"}.items():
        (root / name).write_text(text)
    for name, text in {**RECIPES, **SUITES, "own": PROTOCOLS}.items():
        (root / f"{name}.toml").write_text(text)
    for name, text in {"torn-board": "{", "false-board": '{"suite": "a", "rows": [{"run": "\\u001b[2J"}]}'}.items():
        (root / name).mkdir()
        (root / name / "campaign-digits.json").write_text(text)
    (root / "latin.toml").write_bytes(b'name = "\xe4"')
    (root / "utf16.toml").write_text(RECIPES["flat"], encoding="utf-16")
    (root / "marked.toml").write_text('extends = "pgd-at-digits"', encoding="utf-8-sig")


# fmt: off
TORCH_FREE = (
    ("trian pgd-at-digits", "Unknown command 'trian': did you mean 'train'?"),
    ("--verison", "No such option '--verison'. Did you mean '--version'?"),
    # train: the recipe
    ("train", "Missing argument 'RECIPE'."),
    ("train pgd-at-digits more", "Got unexpected extra argument (more)"),
    ("train ''", "Nothing stands after train, as with a variable that is not set"),
    ("train pgd-at-digit", "Unknown recipe or method 'pgd-at-digit': did you mean 'pgd-at-digits'?"),
    ("train pgd-at-digits@", "Unknown variant of pgd-at-digits ''"),
    ("train rslad-cifar10@printd", "Unknown variant of rslad-cifar10 'printd': did you mean 'printed'?"),
    ("train run", "Unknown recipe or method 'run'"),
    ("train pgd-at", "The method pgd-at has a recipe per data set: add --dataset with one of cifar10,"),
    ("train pgd-at --dataset svhn", "The method pgd-at has no recipe for svhn: add --dataset with one of cifar10,"),
    ("train missing.toml", "There is no recipe file missing.toml"),
    ("train folder.toml", "Recipe folder.toml cannot be read"),
    (f"train {LONG}.toml", "cannot be read ([Errno 36] File name too long"),
    ("train latin.toml", "Recipe latin.toml cannot be read ('utf-8' codec can't decode byte 0xe4"),
    ("train utf16.toml", "can't decode byte 0xff in position 0: invalid start byte): give a TOML file in UTF-8."),
    ("train marked.toml --student resnet9", "Unknown model 'resnet9'"),
    ("train torn.toml", "Recipe torn.toml is not valid TOML: Invalid value"),
    ("train deep.toml", "Recipe deep.toml cannot be read (maximum recursion depth exceeded"),
    ("train nul.toml", "cannot be read (embedded null byte"),
    ("train empty.toml", "In recipe empty.toml: title is missing; add it to the recipe or give --set title=VALUE."),
    ("train circle.toml", "Recipe circle.toml extends itself: circle.toml -> circle.toml."),
    ("train parents.toml", "Recipe parents.toml: extends must be the name of one recipe, in quotes."),
    ("train orphan.toml", "Unknown recipe 'pgd-at-digit': did you mean 'pgd-at-digits'?"),
    ("train flat.toml", "In recipe flat.toml: data = 3: input should be a valid dictionary"),
    ("train unnamed.toml", "In recipe unnamed.toml: method = 'rslad': input should be a valid dictionary."),
    ("train numbered.toml", "In recipe numbered.toml: method: [method] needs a name."),
    ("train variants.toml", "each variant is a section of its own: write [variants.NAME] and its changes."),
    ("train variant.toml@a", "each variant is a section of its own: write [variants.NAME] and its changes."),
    ("train above.toml", "name = '../../up': it begins the name of the run directory: give one without slashes"),
    ("train dated.toml", "seed = datetime.date(2020, 1, 1): input should be a valid integer."),
    # train: --set
    ("train pgd-at-digits --set attack.steps", "is not of the form section.key=value"),
    ("train pgd-at-digits --set =3", "'=3' is not of the form section.key=value, such as --set attack.steps=7."),
    ("train pgd-at-digits --set attack.step=3", "did you mean 'steps'?"),
    ("train pgd-at-digits --set attack..steps=3", "Unknown key in recipe pgd-at-digits, section attack: ''"),
    ("train pgd-at-digits --set attack=3", "attack = 3: input should be a valid dictionary"),
    ("train pgd-at-digits --set student.x=3", "--set student.x: student is a value, not a section."),
    ("train pgd-at-digits --set attack.steps=", "attack.steps = '': input should be a valid integer."),
    ("train pgd-at-digits --set attack.steps=-1", "attack.steps = -1: input should be greater than or equal to 0."),
    ("train pgd-at-digits --set attack.steps=1.5", "attack.steps = 1.5: input should be a valid integer"),
    ("train pgd-at-digits --set attack.steps=true", "attack.steps = True: input should be a valid integer."),
    ("train pgd-at-digits --set attack.step_size=0", "attack.step_size = 0: input should be greater than 0."),
    ("train pgd-at-digits --set attack.step_size=1/0", "'1/0' is neither a number nor a fraction such as '8/255'."),
    ("train pgd-at-digits --set threat.eps=inf", "threat.eps = inf: input should be a finite number."),
    ("train pgd-at-digits --set threat.eps=-8/255", "threat.eps = '-8/255': input should be greater than or equal to 0."),
    ("train pgd-at-digits --set threat.eps=8", "eps = 8 is larger than any pixel, which lie in [0, 1]: give a fraction"),
    ("train pgd-at-digits --set threat.norm=l1", "threat.norm = 'l1': input should be 'linf' or 'l2'."),
    ("train pgd-at-digits --set optimizer.lr=fast", "'fast' is neither a number nor a fraction"),
    ("train pgd-at-digits --set schedule.kind=linear", "input should be 'constant', 'step', 'cosine' or 'onecycle'."),
    ("train pgd-at-digits --set schedule.milestones=[2]", "input should be less than or equal to 1."),
    ("train pgd-at-digits --set data.batch=0", "data.batch = 0: input should be greater than or equal to 1."),
    ("train pgd-at-digits --set data.augment=crop-flip", "a mirrored digit of digits is no digit"),
    ("train pgd-at-digits --set data.validation=1437", "data.validation = 1437 cannot be taken from the 1437 training"),
    ("train pgd-at-digits --set data.drop_last=true --set data.batch=5000", "leaves no batch of 1287 training images"),
    ("train pgd-at-digits --set data.validation=0", "selection.by = 'best-val' needs data.validation > 0."),
    ("train pgd-at-digits --set average.kind=ema", "decay is needed by kind = 'ema' and by no other."),
    ("train pgd-at-digits --set average.kind=swa --set average.start=1", "leaves none of 20 epochs to average: lower it."),
    ("train pgd-at-digits --set precision.attack=fp16", "input should be 'fp32' or 'bf16'."),
    ("train pgd-at-digits --set method.scale=2", "Unknown key in recipe pgd-at-digits, section method: 'scale'"),
    ("train pgd-at-digits --set method.name=pgd", "Unknown method 'pgd'"),
    ("train pgd-at-digits --set method.name=rslad", "section method: alpha is missing; add it to the recipe or give"),
    ("train pgd-at-digits --set selection.protocol=pgd11", "Unknown protocol 'pgd11'"),
    ("train pgd-at-digits --set selection.protocol=transfer", "Protocol 'transfer' is crafted on another network"),
    ("train pgd-at-digits --set name=a/b", "name = 'a/b': it begins the name of the run directory"),
    ("train pgd-at-digits --set name=", "name = '': it begins the name of the run directory"),
    ("train pgd-at-digits --set folder", "--set 'folder' is not of the form section.key=value"),
    ("train pgd-at-digits --set ''", "Nothing stands after --set, as with a variable that is not set"),
    ("train pgd-at-digits --set ünï.cöde=1", "Unknown key in recipe pgd-at-digits: 'ünï'"),
    ("train pgd-at-digits --set attack.steps=sieben", "attack.steps = 'sieben': input should be a valid integer"),
    ("train pgd-at-digits --set attack.steps=[1,2]", "attack.steps = [1, 2]: input should be a valid integer"),
    ("train pgd-at-digits --set attack.steps=nan", "attack.steps = nan: input should be a valid integer"),
    ("train pgd-at-digits --set optimizer.lr=nan", "optimizer.lr = nan: input should be"),
    ("train pgd-at-digits --set optimizer.lr=-inf", "optimizer.lr = -inf: input should be"),
    ("train pgd-at-digits --set optimizer.momentum=2", "optimizer.momentum = 2: input should be"),
    ("train pgd-at-digits --set data.train_images=0", "data.train_images = 0: input should be"),
    ("train pgd-at-digits --set data.validation=-1", "data.validation = -1: input should be"),
    ("train pgd-at-digits --set data=digits", "data = 'digits': input should be a valid dictionary"),
    ("train pgd-at-digits --set extends=rslad-digits", "Unknown key in recipe pgd-at-digits: 'extends'"),
    # train: its options
    ("train pgd-at-digits --student resnet-8", "Unknown model 'resnet-8': did you mean 'resnet8'?"),
    ("train pgd-at-digits --dataset digit", "Unknown data set 'digit': did you mean 'digits'?"),
    ("train pgd-at-digits --epochs", "Option '--epochs' requires an argument."),
    ("train pgd-at-digits --epochs 0", "Invalid value for '--epochs': 0 is not in the range x>=1."),
    ("train pgd-at-digits --seed 1.5", "Invalid value for '--seed': '1.5' is not a valid integer"),
    ("train pgd-at-digits --seed -1", "-1 is not in the range x>=0"),
    ("train pgd-at-digits --time-limit 9", "'9' is no length of time: give a number and a unit, such as"),
    ("train pgd-at-digits --time-limit 0s", "'0s' is no length of time"),
    ("train pgd-at-digits --time-limit 9mm", "'9mm' is no length of time"),
    ("train pgd-at-digits --epoch 3", "No such option '--epoch'."),
    ("train pgd-at-digits --quiet=yes", "Option '--quiet' does not take a value."),
    ("train pgd-at-digits --teacher run", "No such option '--teacher'."),
    ("train pgd-at-digits --device tpu", "'tpu' is not one of 'auto', 'cuda', 'cpu'."),
    ("train pgd-at-digits --runs file", "Invalid value for '--runs': Directory 'file' is a file."),
    ("train pgd-at-digits --data-root file", "Invalid value for '--data-root': Directory 'file' is a file."),
    ("train pgd-at-digits --log-file folder", "Invalid value for '--log-file': File 'folder' is a directory."),
    ("train pgd-at-digits --log-file no/log", "--log-file no/log cannot be written: give a file in a folder that is there."),
    ("train pgd-at-digits --log-file file/log", "--log-file file/log cannot be written"),
    ("train pgd-at-digits --log-file ''", "Nothing stands after --log-file, as with a variable that is not set"),
    ("train pgd-at-digits --runs=", "Nothing stands after --runs, as with a variable that is not set: give a value there."),
    ("train pgd-at-digits --runs ''", "Nothing stands after --runs, as with a variable that is not set"),
    ("train pgd-at-digits --tensorboard", "Option '--tensorboard' requires an argument."),
    ("train pgd-at-digits --tensorboard file", "Invalid value for '--tensorboard': Directory 'file' is a file."),
    ("train pgd-at-digits --runs file/under", "--runs file/under cannot be written: give a folder that can."),
    ("train pgd-at-digits --tensorboard file/under", "--tensorboard file/under cannot be written: give a folder that can."),
    ("train pgd-at-digits --epochs inf", "'inf' is not a valid integer"),
    ("train pgd-at-digits --epochs=-3", "-3 is not in the range x>=1"),
    ("train pgd-at-digits --time-limit nan", "'nan' is no length of time"),
    ("train pgd-at-digits --time-limit=-5s", "'-5s' is no length of time"),
    ("train pgd-at-digits --diagnostics", "No such option '--diagnostics'."),
    ("train rslad-digits", "type `ardbench distill rslad-digits --teacher robust=SOURCE` instead."),
    ("train iad-ii-digits", "--teacher robust=SOURCE --teacher clean=SOURCE` instead."),
    # distill
    ("distill", "Missing argument 'RECIPE'."),
    ("distill pgd-at-digits --teacher x", "pgd-at takes no teacher: type `ardbench train pgd-at-digits` instead."),
    ("distill rslad-digits", "rslad wants 1 teacher (robust), but 0 were given with --teacher."),
    ("distill rslad-digits --teacher run --teacher run", "rslad wants 1 teacher (robust), but 2 were given"),
    ("distill peeraid-digits --teacher run", "peeraid wants no teacher, but 1 was given with --teacher."),
    ("distill iad-ii-digits --teacher run", "iad-ii wants 2 teachers (robust, clean), but 1 was given with --teacher."),
    ("distill iad-ii-digits --teacher robust=run --teacher robust=run", "more than that is given for the role 'robust'."),
    ("distill rslad-digits --teacher nice=a:resnet18", "no role is called 'nice'"),
    ("distill rslad-digits --teacher robust=", "--teacher 'robust=' names no network"),
    ("distill rslad-digits --teacher nowhere", "Teacher 'nowhere' is no run directory"),
    (f"distill rslad-digits --teacher {LONG}", f"{LONG}: File name too long: give a path that can be used."),
    ("distill rslad-digits --teacher folder", "folder is not a run directory (no config.json in it)"),
    ("distill rslad-digits --teacher begun", "Teacher begun is not finished: type its command again to finish it first."),
    ("distill rslad-digits --teacher run@averaged", "run has no checkpoint 'averaged': choose one of last, best."),
    ("distill rslad-digits --teacher run@first", "Teacher 'run@first' is no run directory"),
    ("distill rslad-digits --teacher no-weights", "no-weights has no checkpoint 'best': its weights are gone."),
    ("distill rslad-digits --teacher torn-config", "torn-config/config.json cannot be read as JSON"),
    ("distill rslad-digits --teacher empty-done", "empty-done/done holds no done marker (epochs: field required)"),
    ("distill rslad-digits --teacher net.safetensors", "give net.safetensors:ARCH, such as net.safetensors:resnet18."),
    ("distill rslad-digits --teacher net.safetensors:resnet9", "Unknown model 'resnet9': did you mean 'resnet8'?"),
    ("distill rslad-digits --teacher net.safetensors:resnet8@x", "'x' is no side of an image in pixels"),
    ("distill rslad-digits --teacher no.pt:resnet18", "there is no file no.pt"),
    ("distill rslad-digits --teacher zoo:nobody", "Unknown teacher of the zoo 'nobody'"),
    ("distill rslad-digits --teacher zoo:", "Unknown teacher of the zoo ''"),
    ("distill rslad-digits --teacher clean=run", "no role is called 'clean'"),
    ("distill rslad-digits --teacher file", "Teacher 'file' is no run directory: give file:ARCH, such as file:resnet18."),
    ("distill rslad-digits --teacher net.safetensors:", "Unknown model ''"),
    ("distill rslad-digits --teacher folder:resnet18", "there is no file folder"),
    ("distill rslad-digits --teacher net.safetensors:resnet8@0", "'0' is no side of an image in pixels"),
    ("distill rslad-digits --teacher list-config", "list-config/config.json holds a list"),
    ("distill rslad-digits --tensorboard file/under --teacher run", "--tensorboard file/under cannot be written"),
    # eval
    ("eval", "Missing argument 'SOURCE'."),
    ("eval nowhere", "There is no run directory or file nowhere"),
    (f"eval {LONG}", "File name too long: give a path that can be used."),
    ("eval 'two\nlines'", "There is no run directory or file two lines"),
    ("eval '\x1b[31mred'", r"There is no run directory or file \x1b[31mred"),
    ("eval 'a\udcff'", r"There is no run directory or file a\udcff"),
    ("eval 'a [bold]name with ünïcode'", "a [bold]name with ünïcode is not a run directory"),
    ("eval folder", "folder is not a run directory (no config.json in it): give a folder under runs/."),
    ("eval run run", "Got unexpected extra argument (run)"),
    ("eval begun", "begun is not finished: type its train or distill command again to finish it first."),
    ("eval torn-config", "torn-config/config.json cannot be read as JSON"),
    ("eval list-config", "list-config/config.json holds a list, but ardbench writes an object there."),
    ("eval deep-config", "deep-config/config.json cannot be read as JSON (recursion limit exceeded"),
    ("eval empty-config", "empty-config/config.json holds no configuration of a run (identity: field required)"),
    ("eval odd-dataset", "Unknown data set 'fakes': did you mean 'fake'?"),
    ("eval odd-model", "Unknown model 'resnet9': did you mean 'resnet8'?"),
    ("eval odd-done", "odd-done/done holds no done marker (seconds: input should be a valid number"),
    ("eval folder-done", "folder-done/done cannot be read as JSON"),
    ("eval run --protocol pgd21", "Unknown protocol 'pgd21': did you mean"),
    ("eval run --protocol aa:", "Unknown attack in protocol 'aa:': '': choose one of: apgd-ce,"),
    ("eval run --protocol aa:square,square", "Protocol 'aa:square,square' names square twice: name every attack once."),
    ("eval run --protocol pgd20-fast", "only AutoAttack has a fast form: give pgd20."),
    ("eval run --protocol own.toml", "Unknown protocol 'own.toml'"),
    ("eval run --protocol own.toml:nobody", "Unknown protocol in own.toml: 'nobody': choose one of: aa, kindless, mine."),
    ("eval run --protocol own.toml:mine", "Protocol 'mine' in own.toml, objective: field required."),
    ("eval run --protocol own.toml:aa", "Protocol 'aa' in own.toml cannot be called so"),
    ("eval run --protocol own.toml:kindless", "it needs a kind, which is clean, pgd or autoattack."),
    ("eval run --protocol no/own.toml:mine", "own.toml cannot be read as TOML"),
    ("eval run --protocol deep.toml:mine", "Protocols deep.toml cannot be read as TOML (maximum recursion depth"),
    ("eval run --protocol transfer", "Protocol 'transfer' is crafted on another network"),
    ("eval run --surrogate run", "--surrogate is for protocols that are crafted on it"),
    ("eval run --protocol transfer --surrogate nowhere", "Teacher 'nowhere' is no run directory"),
    ("eval run --protocol transfer --surrogate begun", "Teacher begun is not finished"),
    ("eval run --protocol pgd20 --fast", "--fast is for AutoAttack, and pgd20 is none: leave it out."),
    ("eval run --batch 0", "'0' is no batch: give a number of images from 1 on, or auto."),
    ("eval run --batch 1.5", "'1.5' is no batch"),
    ("eval run --n 0", "0 is not in the range x>=1"),
    ("eval run --n 65", "--n 65 is more than the 64 test images of fake: give at most 64."),
    ("eval run --eps 8", "--eps 8 is larger than any pixel, which lie in [0, 1]: give a fraction"),
    ("eval run --eps x", "'x' is neither a number nor a fraction such as 8/255."),
    ("eval run --eps nan", "'nan' is neither a number nor a fraction"),
    ("eval run --eps 1e400", "'1e400' is neither a number nor a fraction"),
    ("eval run --eps 1/0", "'1/0' is neither a number nor a fraction"),
    ("eval run --eps=-1", "is negative"),
    ("eval run --norm l1", "'l1' is not one of 'linf', 'l2'."),
    ("eval run --norm l2", "--norm l2 needs --eps with it"),
    ("eval run --checkpoint first", "'first' is not one of 'last', 'best', 'averaged'."),
    ("eval run --checkpoint averaged", "has no checkpoint 'averaged': choose one of last, best."),
    ("eval run --model resnet8", "is a run and knows its model and data set"),
    ("eval run --part ema", "run is a run and knows its model and data set"),
    ("eval zoo:trades-wrn-34-10-cifar10 --part ema", "leave out --model, --dataset and --part."),
    ("distill rslad-digits --teacher epoch=3-step=100.ckpt:resnet18", "nor is there a file of that name"),
    ("distill rslad-digits --teacher nowhere.pt#ema:resnet18", "there is no file nowhere.pt"),
    ("eval run --out somewhere", "knows its model and data set: leave out --model, --dataset, --part and --out."),
    ("eval run --log-file no/log", "--log-file no/log cannot be written"),
    ("eval net.safetensors", "is a file: say what is in it, such as --model resnet18 --dataset cifar10."),
    ("eval net.safetensors --model resnet9 --dataset fake", "Unknown model 'resnet9': did you mean"),
    ("eval net.safetensors --model resnet8 --dataset fakes", "Unknown data set 'fakes'"),
    ("eval net.safetensors --checkpoint last", "is no run directory: --checkpoint chooses"),
    ("eval net.safetensors --model resnet8 --dataset fake --out file", "Directory 'file' is a file."),
    ("eval zoo:nobody", "Unknown teacher of the zoo 'nobody'"),
    ("eval ''", "Nothing stands after eval, as with a variable that is not set"),
    ("eval run@best", "There is no run directory or file run@best: type run --checkpoint best instead."),
    ("eval net.safetensors:resnet8", "type net.safetensors --model resnet8 instead."),
    ("eval pgd-at-digits", "There is no run directory or file pgd-at-digits: give a folder under runs/"),
    ("eval run --protocol aa:apgd-ce,", "Unknown attack in protocol 'aa:apgd-ce,': ''"),
    ("eval run --protocol empty.toml:mine", "Unknown protocol in empty.toml: 'mine'"),
    ("eval run --protocol latin.toml:mine", "latin.toml cannot be read as TOML"),
    ("eval run --protocol folder.toml:mine", "folder.toml cannot be read as TOML"),
    ("eval run --batch=-1", "'-1' is no batch"),
    ("eval run --batch nan", "'nan' is no batch"),
    ("eval run --n=-1", "-1 is not in the range x>=1"),
    ("eval run --n 1.5", "'1.5' is not a valid integer"),
    ("eval run --n ''", "Nothing stands after --n, as with a variable that is not set"),
    ("eval run --seed=-1", "-1 is not in the range x>=0"),
    ("eval run --eps inf", "'inf' is neither a number nor a fraction"),
    ("eval run --norm linf --eps 1.5", "--eps 1.5 is larger than any pixel"),
    ("eval run --time-limit 0m", "'0m' is no length of time"),
    ("eval run --tensorboard board", "No such option '--tensorboard'."),
    ("eval net.safetensors --model resnet8", "is a file: say what is in it"),
    ("eval net.safetensors --model resnet8 --dataset fake --n 65", "--n 65 is more than the 64 test images of fake"),
    ("eval folder.toml", "folder.toml is not a run directory"),
    ("eval zoo:trades-wrn-34-10-cifar10 --model resnet8", "set: leave out --model, --dataset and --part."),
    # report
    ("report digit", "Unknown suite 'digit': did you mean 'digits'?"),
    ("report file", "Unknown suite 'file'"),
    ("report folder", "folder is not a run directory"),
    ("report --runs nowhere", "There is no run under nowhere"),
    ("report --runs folder", "There is no run under folder: train one first, or give --runs with the folder of runs."),
    ("report run digits", "digits is not a run directory"),
    ("report run --out file", "Invalid value for '--out': Directory 'file' is a file."),
    ("report run --out file/under", "Could not write file/under/report.csv: Not a directory"),
    ("report run --html folder", "Invalid value for '--html': File 'folder' is a directory."),
    ("report run begun --curves", "The curves of several runs belong to none of them: say where with --out FOLDER."),
    ("report mute-metrics --curves", "mute-metrics/metrics.jsonl tells no numbers that could be drawn."),
    ("report no-identity", "no-identity/config.json holds no configuration of a run (identity: field required)"),
    ("report odd-teachers", "odd-teachers/config.json holds no configuration of a run (teachers.0.source: field required)"),
    ("report torn-done", "torn-done/done cannot be read as JSON"),
    ("report torn-env", "torn-env/env.json cannot be read as JSON"),
    ("report torn-verdicts", "torn-verdicts/eval/last/clean.json cannot be read as JSON"),
    ("report odd-verdicts", "holds no verdicts of ardbench (labels: Field required); delete it to measure again."),
    ("report odd-threat", "threat must say norm and eps); delete it to measure again."),
    ("report odd-trust", "odd-trust/eval/last/trust.json holds no trust checks of ardbench"),
    ("report torn-metrics --curves", "torn-metrics/metrics.jsonl has a line that is not JSON"),
    ("report odd-metrics --curves", "holds no row of metrics in one of its lines (epoch: input should be a valid integer"),
    ("report folder-metrics --curves", "folder-metrics/metrics.jsonl"),
    ("report run --curves --html page.html", "--curves draws figures in place of what --html writes, a page that has them"),
    ("report begun --curves --out file/under", "Could not write file/under/curves.png: Not a directory"),
    ("report missing.toml", "Suite missing.toml cannot be read"),
    ("report empty.toml", "In suite empty: title is missing"),
    ("report list-config", "list-config/config.json holds a list"),
    # compare
    ("compare run", "Missing argument 'B'."),
    ("compare run nowhere", "nowhere is not a run directory"),
    ("compare run begun", "begun is not finished: type its command again to finish it first."),
    ("compare run odd-done", "odd-done/done holds no done marker"),
    ("compare run odd-verdicts", "holds no verdicts of ardbench"),
    ("compare nobodys:x run", "Unknown suite 'nobodys'"),
    ("compare digits:nobody run", "Unknown run of suite digits: 'nobody'"),
    ("compare digits: run", "Unknown run of suite digits: ''"),
    ("compare run run --n 7", "run and run have no evaluation of one protocol on 7 images: evaluate both alike"),
    ("compare run run --checkpoint best", "have no evaluation of one protocol at checkpoint best"),
    ("compare run run --protocol pgd20", "Unknown protocol that both run and run have: 'pgd20': choose one of: clean."),
    ("compare run run --n 0", "0 is not in the range x>=1"),
    ("compare run run --checkpoint first", "'first' is not one of 'last', 'best', 'averaged'."),
    ("compare run run", "run and run are the same: name two runs, or two runs of a suite, that differ."),
    ("compare run ./run", "run and ./run are the same"),
    ("compare run file", "file is not a run directory"),
    ("compare missing.toml:a run", "Suite missing.toml cannot be read"),
    ("compare run run run", "Got unexpected extra argument (run)"),
    # transfer
    ("transfer", "Missing argument 'TEACHER|SUITE...'."),
    ("transfer run", "--size 2 needs as many different teachers, but 1 was named: name more"),
    ("transfer run run", "--size 2 needs as many different teachers, but 1 was named: name more"),
    ("transfer run net.safetensors:resnet8-tiny --size 1", "1 is not in the range x>=2."),
    ("transfer run net.safetensors:resnet8-tiny --n 65", "--n 65 is more than the 64 test images of fake"),
    ("transfer run net.safetensors:resnet8-tiny --eps 8", "--eps 8 is larger than any pixel"),
    ("transfer run net.safetensors:resnet8-tiny --norm l2", "--norm l2 needs --eps with it"),
    ("transfer run net.safetensors:resnet8-tiny --dataset fakes", "Unknown data set 'fakes'"),
    ("transfer run net.safetensors:resnet8-tiny --batch auto", "'auto' is not a valid integer"),
    ("transfer run begun", "Teacher begun is not finished"),
    ("transfer net.safetensors:resnet8 net.safetensors:resnet18", "No teacher says what it was trained on: give --dataset"),
    ("transfer run nowhere", "Teacher 'nowhere' is no run directory"),
    ("transfer run ''", "Nothing stands after run, as with a variable that is not set"),
    ("transfer run net.safetensors:resnet8-tiny --n 0", "0 is not in the range x>=1"),
    ("transfer run net.safetensors:resnet8-tiny --eps=-1", "is negative"),
    ("transfer run net.safetensors:resnet8-tiny --norm l3", "'l3' is not one of 'linf', 'l2'."),
    ("transfer run net.safetensors:resnet8-tiny --runs file/under", "--runs file/under cannot be written"),
    ("transfer run net.safetensors:resnet8-tiny --out file/under", "--out file/under cannot be written"),
    ("transfer run net.safetensors:resnet8-tiny --log-file no/log", "--log-file no/log cannot be written"),
    ("transfer missing.toml", "Suite missing.toml cannot be read"),
    ("transfer digits", "of the suite is not there yet: type ardbench reproduce digits first."),
    # export
    ("verify", "Missing argument 'PATH...'."),
    ("verify nowhere", "nowhere holds nothing to verify: give a run directory, a folder of them, or an export."),
    ("verify file", "file holds nothing to verify"),
    ("verify run --again 0", "Invalid value for '--again': 0 is not in the range x>=1."),
    ("reproduce digits --from nowhere", "--from nowhere is no folder: give one in which run directories lie."),
    ("reproduce digits --from file", "--from file is no folder"),
    ("reproduce digits --keep file", "Invalid value for '--keep': Directory 'file' is a file."),
    ("reproduce digits --unfinished", "--unfinished says what --keep leaves: give --keep FOLDER with it"),
    ("export nowhere --out new", "nowhere is not a run directory"),
    ("export run", "Missing option '--out'."),
    ("export file --out new", "Invalid value for 'RUN': Directory 'file' is a file."),
    ("export run --out file", "Invalid value for '--out': Directory 'file' is a file."),
    ("export begun --out new", "begun is not finished"),
    ("export run --checkpoint averaged --out new", "run has no checkpoint 'averaged': choose one of last, best."),
    ("export no-weights --out new", "no-weights has no checkpoint 'best': its weights are gone."),
    ("export run --checkpoint first --out new", "'first' is not one of 'best', 'last', 'averaged'."),
    ("export run --out ''", "Nothing stands after --out, as with a variable that is not set"),
    # reproduce
    ("reproduce", "Missing argument 'SUITE'."),
    ("reproduce digit", "Unknown suite 'digit': did you mean 'digits'?"),
    ("reproduce missing.toml", "Suite missing.toml cannot be read"),
    ("reproduce folder.toml", "Suite folder.toml cannot be read"),
    ("reproduce latin.toml", "Suite latin.toml cannot be read"),
    ("reproduce torn.toml", "Suite torn.toml is not valid TOML"),
    ("reproduce no-runs.toml", "In suite no-runs: runs is missing."),
    ("reproduce no-run.toml", "In suite no-run: runs = []: tuple should have at least 1 item"),
    ("reproduce no-seed.toml", "In suite no-seed: seeds = []: tuple should have at least 1 item"),
    ("reproduce coloured.toml", "Unknown key in suite coloured"),
    ("reproduce unknown-protocol.toml", "Unknown protocol 'pgd21': did you mean 'pgd20'?"),
    ("reproduce unknown-recipe.toml", "Unknown recipe or method 'pgd-at-digit': did you mean 'pgd-at-digits'?"),
    ("reproduce unknown-teacher.toml", "Unknown teacher of run 'b' in suite unknown-teacher: 'c'"),
    ("reproduce own-teacher.toml", "runs teach each other in a circle (b -> b); remove one of these teachers."),
    ("reproduce no-teacher.toml", "Run 'b': the method rslad wants 1 (robust) as teachers, but 0 are named."),
    ("reproduce taught-teacher.toml", "Run 'b': the method pgd-at wants none as teachers, but 1 are named."),
    ("reproduce absent-file.toml", "Teacher 'no.pt:resnet8': there is no file no.pt"),
    ("reproduce absent-zoo.toml", "Unknown teacher of the zoo 'nobody'"),
    ("reproduce robustbench.toml", "robustbench:x is a network for the data set and threat of one recipe"),
    ("reproduce same-name.toml", "two runs are called 'a': rename one of them."),
    ("reproduce same-run.toml", "Suite same-run: 'a' and 'b' are the same run"),
    ("reproduce upward.toml", "runs.0.name = '../a': string should match pattern"),
    ("reproduce misset.toml", "Unknown key in recipe pgd-at-digits, section attack: 'step': did you mean 'steps'?"),
    ("reproduce unknown-checkpoint.toml", "checkpoints.0 = 'first': input should be 'last', 'best' or 'averaged'."),
    ("reproduce too-many.toml", "Suite too-many: n = 361 is more than the 360 test images of digits: give at most 360."),
    ("reproduce few-to-choose.toml", "transfer.size is 2, but the runs name 0 in all as teachers: make it smaller"),
    ("reproduce digits --jobs 0", "0 is not in the range x>=1"),
    ("reproduce digits --tflops 0 --dry-run", "0.0 is not in the range x>0."),
    ("reproduce digits --tflops nan --dry-run", "--tflops nan is no speed: give the TFLOP/s that the device reaches"),
    ("reproduce digits --tflops 1", "--tflops tells what a plan would take: give --dry-run with it, or leave it out."),
    ("reproduce digits --out file", "Invalid value for '--out': Directory 'file' is a file."),
    ("reproduce digits --log-file no/log", "--log-file no/log cannot be written"),
    ("reproduce digits --json", "No such option '--json'."),
    ("reproduce digits --engine slurm", "'slurm' is not one of 'local', 'ray'."),
    ("reproduce digits --address 10.0.0.1:6379", "--address is for a cluster: give --engine ray with it, or leave it out."),
    ("reproduce digits --gpus-per-run 0.5", "--gpus-per-run is for a cluster: give --engine ray with it, or leave it out."),
    ("reproduce digits --cpus-per-run 2", "--cpus-per-run is for a cluster: give --engine ray with it, or leave it out."),
    ("reproduce digits --retries 2", "--retries is for a cluster: give --engine ray with it, or leave it out."),
    ("reproduce digits --engine ray --address ray://head:10001", "--address ray://head:10001 is no HOST:PORT"),
    ("reproduce digits --engine ray --address head", "--address head is no HOST:PORT: give what `ray start --head` printed"),
    ("reproduce digits --engine ray --gpus-per-run 2", "2.0 is not in the range 0<=x<=1."),
    ("reproduce digits --engine ray --gpus-per-run nan", "--gpus-per-run nan is no share of a GPU"),
    ("reproduce digits --engine ray --gpus-per-run 0.5 --device cpu", "--gpus-per-run 0.5 and --device cpu exclude each other"),
    ("reproduce digits --engine ray --gpus-per-run 0 --device cuda", "--gpus-per-run 0 and --device cuda exclude each other"),
    ("reproduce digits --engine ray --cpus-per-run 0", "0 is not in the range x>=1"),
    ("reproduce digits --engine ray --retries -1", "-1 is not in the range x>=0"),
    ("reproduce digits --status", "No campaign of digits is under way in runs: `ardbench reproduce digits` begins one or"),
    ("reproduce digits --status --dry-run", "--status tells what is under way and --dry-run what is missing: give one of"),
    ("reproduce digit --status", "Unknown suite 'digit': did you mean 'digits'?"),
    ("reproduce digits --status --runs torn-board", "campaign-digits.json cannot be read as JSON"),
    ("reproduce digits --status --runs false-board", "campaign-digits.json holds no board of a campaign (rows.0.run: "),
    ("reproduce empty.toml", "In suite empty: title is missing"),
    ("reproduce pgd-at-digits", "Unknown suite 'pgd-at-digits'"),
    ("reproduce utf16.toml", "): give a TOML file in UTF-8 or a name from `ardbench list suites`."),
    ("reproduce digits --jobs two", "'two' is not a valid integer"),
    ("reproduce digits --tflops fast --dry-run", "'fast' is not a valid float"),
    ("reproduce digits --device gpu", "'gpu' is not one of"),
    ("reproduce digits --out file/under", "--out file/under cannot be written: give a folder that can."),
    ("reproduce digits --runs file/under", "--runs file/under cannot be written: give a folder that can."),
    ("reproduce digits --tensorboard file/under", "--tensorboard file/under cannot be written"),
    ("reproduce digits --runs file", "Invalid value for '--runs': Directory 'file' is a file."),
    ("reproduce digits --time-limit soon", "'soon' is no length of time"),
    # list, show, data, status, doctor, completion
    ("list", "Missing argument"),
    ("list recipe", "'recipe' is not one of 'recipes'"),
    ("list recipes --verify", "--verify measures teachers, not recipes: type `ardbench list teachers --verify`."),
    ("list models --dataset cifar", "Unknown data set 'cifar': did you mean 'cifar10'?"),
    ("show", "Missing argument 'RECIPE|RUN'."),
    ("list recipes --dataset cifar10", "--dataset says on whose images `list models` counts: leave it out of `list recipes`."),
    ("list models models", "Got unexpected extra argument (models)"),
    ("show run --fast", "run is a run, whose recipe is what it is"),
    ("show ''", "Nothing stands after show, as with a variable that is not set"),
    ("show missing.toml", "There is no recipe file missing.toml"),
    ("show pgd-at-digit", "Unknown recipe or method 'pgd-at-digit'"),
    ("show folder", "folder is not a run directory"),
    ("show run --set attack.steps=1", "run is a run, whose recipe is what it is: give changes with the name of a recipe."),
    ("show run --epochs 3", "run is a run, whose recipe is what it is"),
    ("show list-config", "holds a list, but ardbench writes an object there."),
    ("show no-identity", "holds no configuration of a run (identity: field required)"),
    ("show folder-metrics", "folder-metrics/metrics.jsonl"),
    ("show variants.toml", "each variant is a section of its own"),
    ("data digit", "Unknown data set 'digit': did you mean 'digits'?"),
    ("data digits more", "Got unexpected extra argument (more)"),
    ("data digits --data-root file", "Invalid value for '--data-root': Directory 'file' is a file."),
    ("status file", "Directory 'file' is a file."),
    ("status folder", "There is no run under folder: train one first, or give the folder of runs."),
    ("status nowhere", "There is no run under nowhere"),
    ("status run run", "Got unexpected extra argument (run)"),
    ("doctor --data-root file", "Invalid value for '--data-root': Directory 'file' is a file."),
    ("doctor run", "Got unexpected extra argument (run)"),
    ("doctor --runs file", "Invalid value for '--runs': Directory 'file' is a file."),
    ("completion", "Missing argument"),
    ("completion csh", "'csh' is not one of 'bash', 'zsh', 'fish'."),
)
"""What is refused before a tensor is read: torch is not imported."""

TENSORS = (
    ("train pgd-at-digits --device cpu --dataset cifar10 --data-root .", "data_batch_1 is torn or another file (md5"),
    ("distill rslad-digits --device cpu --dataset fake --teacher torn-weights@last", "has changed since the run was finished"),
    ("distill rslad-digits --device cpu --teacher run", "was trained on fake (10 classes of 3x8x8), but the student's"),
    ("distill rslad-cifar100 --device cpu --data-root . --teacher run", "was trained on fake (10 classes of 3x8x8), but the"),
    ("distill rslad-digits --device cpu --teacher words.pt:resnet8", "words.pt is damaged or not a file of torch.save"),
    ("eval file --device cpu --model resnet8-tiny --dataset fake", "file is damaged or not a file of torch.save"),
    ("eval empty.pt --device cpu --model resnet8-tiny --dataset fake", "empty.pt is empty: copy or download it again."),
    ("eval page.pt --device cpu --model resnet8-tiny --dataset fake", "page.pt is a web page, not a checkpoint"),
    ("eval cut.safetensors --device cpu --model resnet8-tiny --dataset fake", "cut.safetensors is cut short"),
    ("eval net.safetensors --device cpu --model resnet8 --dataset fake", "it fits --model resnet8-tiny."),
    ("eval net.safetensors --device cpu --model resnet8-tiny --dataset digits", "net.safetensors does not fit resnet8-tiny"),
    ("eval net.safetensors --device cpu --model resnet8-tiny --dataset fake --protocol clean --out file/under", "file/under"),
    ("eval torn-weights --device cpu --checkpoint last", "last.safetensors has changed since the run was finished"),
    ("eval torn-verdicts --device cpu --checkpoint last --protocol clean", "clean.json cannot be read as JSON"),
    ("report run --html file/page.html", "Could not write file/page.html: file is no folder"),
    ("transfer run words.pt:resnet18 --device cpu", "words.pt is damaged or not a file of torch.save"),
    ("export torn-weights --checkpoint last --out new", "has changed since the run was finished"),
    ("export odd-threat --checkpoint last --out new", "threat must say norm and eps); delete it to measure again."),
    ("export torn-env --checkpoint last --out new", "torn-env/env.json cannot be read as JSON"),
    ("export run --out full", "full holds other files: give a new or empty folder with --out."),
    ("export run --out file/under", "Could not write file/under/config.json: Not a directory"),
    ("data cifar10 --no-download --data-root folder", "type `ardbench data cifar10` to fetch it."),
    ("data cifar10 --data-root .", "cifar-10-batches-py/data_batch_1 is torn or another file (md5"),
)
"""What is refused when its tensors are read, or the device that is to hold them chosen."""
# fmt: on
