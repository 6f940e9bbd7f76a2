#!/usr/bin/env bash
# Everything that a GPU must show: build, the suite's CUDA tests, compute-sanitizer, timings. Results go to $OUT.
# Uses the torch and pytest of $PYTHON, nvcc and compute-sanitizer, and no network. A step that hangs fails, and the others still run.
# After $LIMIT seconds it ends; what had no time left fails.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-out/gpu}" && cd "${OUT:-out/gpu}" && pwd)
LIMIT=${LIMIT:-580}
TESTS=("${@/#/$root/}")  # files or folders, where not all
[ $# -gt 0 ] || TESTS=("$root/tests")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site
export PYTHONFAULTHANDLER=1
workers=$("$PYTHON" -c "import xdist" 2>/dev/null && echo "-n 12" || true)

step() { # name, seconds at most, log, command...
  local start=$SECONDS left=$((LIMIT - SECONDS))
  # On the signal, pytest and Python say where they are.
  if ((left < 5)) || ! timeout --signal=INT --kill-after=10 $(($2 < left ? $2 : left)) "${@:4}" >"$OUT/$3" 2>&1; then
    echo "$1" >>"$work/failed"
  fi
  printf '\n== %s (%s to %s s)\n%s\n' "$1" "$start" "$SECONDS" "$(tail -n 25 "$OUT/$3" 2>&1 | cut -c -250)"
}

# The program of tests/ptx, for a device in place of the CPU's machine.
compile_cases() {
  mkdir "$work/cases"
  local native
  native=$(ls csrc/*/*.cpp csrc/*/*.cu | grep -v -e /op.cpp -e ^csrc/torch/ -e ^csrc/python/)
  printf '%s\0' tests/ptx/main.cpp tests/ptx/*_cases.cpp $native | xargs -0 -P 8 -I {} sh -c 'nvcc -std=c++17 -O2 -fmad=false -arch=native \
      -Xcompiler=-ffp-contract=off,-fopenmp -DANCHOR_EXT_DEVICE -Icsrc -Itests/ptx -c {} -o $0/$(basename {}).o' \
    "$work/cases"
  nvcc -arch=native -Xcompiler=-fopenmp -o "$work/run_cases" "$work"/cases/*.o
}
compile_cases >"$OUT/cases_build.log" 2>&1 &
cases=$!

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$OUT/gpu.csv"
step build 240 build.log env FORCE_CUDA=1 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index --quiet \
  --target "$site" .
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
(cd "$work" && "$PYTHON" -m anchor_ext --info) | tee "$OUT/info.json"

wait $cases || { echo "compiling tests/ptx" >>"$work/failed"; tail -n 20 "$OUT/cases_build.log"; }

# A script's results: what it prints, and $OUT/<script>_cuda.json.
timings() { # script, seconds at most, arguments...
  step "timings: $1" "$2" "$1_cuda.txt" "$PYTHON" "$root/benchmarks/$1.py" --device cuda --json "$OUT/$1_cuda.json" "${@:3}"
}

# What is not timed may run at once; so may what fills Inductor's cache for the timings.
cd "$work"
export TORCHINDUCTOR_CACHE_DIR=$work/inductor
fillers=() checks=()
for script in losses boxes matching graphs; do
  "$PYTHON" "$root/benchmarks/$script.py" --device cuda >/dev/null 2>&1 &
  fillers+=($!)
done
if [ -e "$work/run_cases" ]; then
  step "the cases that tests/ptx executes on the CPU, on the device" 100 cases.log "$work/run_cases" &
  checks+=($!)
fi
step "the suite's CUDA tests" 240 suite.log "$PYTHON" -m pytest -q --tb=short --durations=10 $workers \
  -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" -m gpu "${TESTS[@]}" &
checks+=($!)
for tool in memcheck initcheck racecheck; do
  step "compute-sanitizer $tool" 200 "$tool.log" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" \
    --report-api-errors no --error-exitcode 1 "$PYTHON" "$root/tests/sanitized.py" &
  checks+=($!)
done
wait "${checks[@]}"
kill -KILL "${fillers[@]}" 2>/dev/null || true
wait

timings boxes 40
timings losses 50
timings matching 100
timings detectors 120 --models retinanet50,fasterrcnn50 --counts 20,500
step "timings: detectors under autocast" 60 detectors_autocast.log "$PYTHON" "$root/benchmarks/detectors.py" \
  --device cuda --autocast --models retinanet50 --counts 20,500
step "timings: bench" 200 bench.log "$PYTHON" "$root/benchmarks/bench.py" --device cuda --results "$OUT"
timings graphs 60
timings dialects 60 --threads 1 --no-compile

printf '\n== done (%s s)\n' "$SECONDS"
if [ ! -e "$work/failed" ]; then echo "gpu: all passed"; else sed 's/^/gpu: FAILED: /' "$work/failed"; exit 1; fi
