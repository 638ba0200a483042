#!/usr/bin/env bash
# Run all GPU tests, speed measurements and profiles on CUDA, in under nine minutes, into one folder. Only the switches are
# left to a call of their own, benchmarks/speed/switches.py --device cuda: their runs on digits take longer.
#
#     PYTHON=.venv/bin/python benchmarks/speed/gpu.sh [FOLDER]
#
# FOLDER (else $OUT, else results/speed of this checkout) gets the tables and gpu.txt, which is all that was printed; rows
# that a table has are not measured again. PYTHON (else python3) has torch and what ardbench depends on, ardbench itself is
# taken from this checkout. Exit code: 0, or 1 if a part failed or was cut off, or 2 where a package or a CUDA device is missing.
set -uo pipefail

python=${PYTHON:-python3}
# what is imported, each package by the name that pip knows: ardbench's own dependencies, what pydantic stands on, the tests' tools
packages=(click filelock jinja2 matplotlib numpy pandas pyautoattack pydantic pydantic-core annotated-types typing-inspection
  rich rich-click safetensors scikit-learn scipy tabulate timm torch torchvision pytest hypothesis)
lacking='import sys
from importlib.util import find_spec
modules = {name: {"scikit-learn": "sklearn"}.get(name, name.replace("-", "_")) for name in sys.argv[1:]}
print(*(name for name, module in modules.items() if find_spec(module) is None))'
missing=$("$python" -c "$lacking" "${packages[@]}" 2>/dev/null) || missing="any, for it does not run"
if [[ -n $missing ]]; then
  echo "gpu.sh needs packages that '$python' does not have: $missing. Install them, or give a Python that has them, such as" \
    "PYTHON=.venv/bin/python after 'make install'." >&2
  exit 2
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "gpu.sh measures on CUDA, and '$python' has no torch that sees a CUDA device: give one that has, such as" \
    "PYTHON=.venv/bin/python benchmarks/speed/gpu.sh, or measure on the processor with 'make speed'." >&2
  exit 2
fi
[[ $python == /* || $python != */* ]] || python=$PWD/$python
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=${1:-${OUT:-$root/results/speed}}
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$root" || exit 1
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

until=$SECONDS # the second at which the present part is cut off; what a part leaves of its time, the next ones have
code=0
summary=()

# part NAME SECONDS COMMAND...
part() {
  local began=$SECONDS result=0 verdict
  until=$((until + $2))
  printf '\n== %s, for at most %d s ==\n' "$1" $((until - SECONDS))
  timeout --kill-after=5 $((until - SECONDS)) "${@:3}" || result=$?
  case $result in
    0) verdict='done' ;;
    124 | 137) verdict='cut off' ;;
    *) verdict="failed ($result)" ;;
  esac
  ((result == 0)) || code=1
  summary+=("$(printf '%-28s %-12s %4d s' "$1" "$verdict" $((SECONDS - began)))")
}

# speed NAME SECONDS SCRIPT OPTIONS...: begins no row in the last 25 seconds
speed() {
  local limit=$((until + $2 - SECONDS - 25))
  part "$1" "$2" "$python" "benchmarks/speed/$3.py" --device cuda --out "$out" --time-limit "$limit" "${@:4}"
}

versions='import platform, torch, torchvision, ardbench
print("Python", platform.python_version(), "torch", torch.__version__, "torchvision", torchvision.__version__)
print("CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version(), "ardbench", ardbench.__version__)'

main() {
  part 'GPU' 10 nvidia-smi
  part 'versions' 20 "$python" -c "$versions"
  mapfile -t files < <(grep -l 'mark\.gpu' tests/*.py) # the others may want more packages
  part 'GPU tests' 80 "$python" -m pytest -m gpu --durations 5 -p no:cacheprovider "${files[@]}"
  speed 'training' 110 training --batch 128 --repeats 3 --steps 5
  speed 'training, RSLAD, WRN-34-10' 35 training --methods rslad --teacher wrn-34-10 --repeats 3 --steps 5
  part 'profiles' 35 "$python" benchmarks/speed/profiles.py --device cuda --out "$out"
  speed 'AutoAttack' 160 autoattack --n 256 --repeats 1 # thousands of launches one after the other for any number
  speed 'scaling' 45 scaling
  speed 'scaling, digits' 40 scaling --dataset digits
  printf '\n== Summary, %d s ==\n' "$SECONDS"
  printf '%s\n' "${summary[@]}" "Results: $out"
  return "$code"
}

main 2>&1 | tee "$out/gpu.txt"
exit "${PIPESTATUS[0]}"
