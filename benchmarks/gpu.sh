#!/usr/bin/env bash
# Everything that a GPU must show: build, the suite on CUDA, compute-sanitizer, timings. Results go to $OUT.
# Uses the torch, pytest and compiler of $PYTHON, and no network.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-out/gpu}" && cd "${OUT:-out/gpu}" && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

step "build"
FORCE_CUDA=1 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index --quiet --target "$site" . 2>&1 |
  tee "$OUT/build.log"
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
(cd "$site" && "$PYTHON" -m anchor_ext --info) | tee "$OUT/info.json"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$OUT/gpu.csv"

failed=0
step "the cases that tests/ptx executes on the CPU, on the device"
nvcc -std=c++17 -O2 -fmad=false -arch=native -Xcompiler=-ffp-contract=off,-fopenmp -DANCHOR_EXT_DEVICE -Icsrc -Itests/ptx \
  -o "$site/cases" tests/ptx/main.cpp tests/ptx/*_cases.cpp $(ls csrc/*/*.cpp | grep -v -e /op.cpp -e csrc/torch/ -e csrc/python/) csrc/*/*_cuda.cu
"$site/cases" 2>&1 | tee "$OUT/cases.log" || failed=1

step "suite"
(cd "$site" && "$PYTHON" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" "$root/tests") 2>&1 |
  tee "$OUT/suite.log" || failed=1

for tool in memcheck initcheck; do
  step "compute-sanitizer $tool"
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 "$PYTHON" tests/sanitized.py 2>&1 |
    tee "$OUT/$tool.log" | tail -n 5 || failed=1
done

step "timings"
"$PYTHON" benchmarks/bench.py --device cuda --results "$OUT" 2>&1 | tee "$OUT/bench.log" || failed=1
"$PYTHON" benchmarks/dialects.py --device cuda --threads 1 --no-compile --json "$OUT/dialects_cuda.json" 2>&1 |
  tee "$OUT/dialects_cuda.txt" || failed=1
"$PYTHON" benchmarks/graphs.py --device cuda --json "$OUT/graphs_cuda.json" 2>&1 | tee "$OUT/graphs_cuda.txt" ||
  failed=1

step "done"
if [ "$failed" = 0 ]; then echo "gpu: all passed"; else echo "gpu: FAILED"; fi
exit "$failed"
