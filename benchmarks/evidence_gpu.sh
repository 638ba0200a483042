#!/usr/bin/env bash
# Make on CUDA what is worth most first, in under nine minutes a call: a robust ResNet-18 of CIFAR-10 (the suite cifar10-gpu) and
# its weights in half precision for an entry of the zoo, then the cells of cifar10-level. Call it again until it says that nothing
# is missing; on another machine it goes on from the same FOLDER.
#
#     PYTHON=.venv/bin/python benchmarks/evidence_gpu.sh [FOLDER]
#
# FOLDER (else $OUT, else results/gpu of this checkout) gets runs/ (as they are committed, and those under way with their trainer
# state), teachers/, the tables and gpu.txt, which is all that was printed. PYTHON (else python3) has torch and what ardbench
# depends on, ardbench itself is taken from this checkout. SUITES names others, LIMIT other seconds a call, RUNS another folder
# than runs/ to train in, ARDBENCH_DATA the folder of the data. Exit code: 0 all is there, 3 saved and to be called again, 2 no
# CUDA device or something was refused.
set -uo pipefail

python=${PYTHON:-python3}
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "evidence_gpu.sh trains on CUDA, and '$python' has no torch that sees a CUDA device: give one that has, such as" \
    "PYTHON=.venv/bin/python benchmarks/evidence_gpu.sh, or train on the processor with 'ardbench reproduce'." >&2
  exit 2
fi
[[ $python == /* || $python != */* ]] || python=$PWD/$python
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-${OUT:-$root/results/gpu}}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
read -ra suites <<<"${SUITES:-cifar10-gpu cifar10-level}"
limit=${LIMIT:-520}
runs=${RUNS:-$root/runs}
spare=40 # seconds for loading, for the end of a batch, and for the tables
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

# The first run of a suite, the teacher, in half precision: it is computed with in fp32
half='
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from ardbench.campaigns.cells import planned
from ardbench.teachers import default_checkpoint
suite, cells = planned(sys.argv[1], Path(sys.argv[2]))
run, file = cells[0].run, Path(sys.argv[3]) / f"{cells[0].name}-{cells[0].recipe.student}-{cells[0].recipe.data.name}.safetensors"
if run.done is not None and not file.exists():
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = load_file(run.intact(default_checkpoint(run.recipe)))
    save_file({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, file)
    print(f"For the zoo (docs/teachers.md): {file}")
'

main() {
  local suite left code
  for suite in "${suites[@]}"; do
    left=$((limit - SECONDS - spare))
    if ((left <= 0)); then
      echo "The $limit s of this call are over: type the same command again."
      return 3
    fi
    printf '\n== %s, for at most %d s ==\n' "$suite" "$left"
    code=0
    "$python" -m ardbench reproduce "$suite" --runs "$runs" --from "$out/runs" --keep "$out/runs" --unfinished \
      --out "$out" --device cuda --time-limit "${left}s" || code=$?
    ((code == 0 || code == 3)) || return "$code"
    if [[ $suite == "${suites[0]}" ]]; then
      "$python" -c "$half" "$suite" "$out/runs" "$out/teachers" || return 1
    fi
    ((code == 0)) || return "$code"
  done
}

main 2>&1 | tee -a "$out/gpu.txt"
exit "${PIPESTATUS[0]}"
