#!/usr/bin/env bash
# A fixed set of calls (profiled.py) under nsys, and what it saw as tables. The report goes to $OUT.
set -euo pipefail
if ! command -v nsys >/dev/null; then
  echo "nsys (NVIDIA Nsight Systems) is not on the PATH. Install the package nsight-systems from NVIDIA's package" \
    "repositories, or a CUDA toolkit, whose installer brings it. Everything else works without it." >&2
  exit 2
fi
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-out/profile}" && cd "${OUT:-out/profile}" && pwd)
report=$OUT/anchor_ext

devices=$("$PYTHON" benchmarks/profiled.py --devices)
nsys profile --trace=cuda,nvtx,osrt --sample=none --cpuctxsw=none --force-overwrite=true --output="$report" \
  "$PYTHON" benchmarks/profiled.py
reports=nvtx_sum
if [[ $devices == *cuda* ]]; then reports+=,cuda_gpu_kern_sum,nvtx_kern_sum; fi
nsys stats --force-export=true --report "$reports" "$report.nsys-rep"
echo "the timeline: nsys-ui $report.nsys-rep"
