#!/usr/bin/env bash
# Every timing of the CPU, one after another: prints them, and keeps them in OUT. Arguments: the names of some of them.
set -euo pipefail
cd "$(dirname "$0")"
: "${PYTHON:=python3}" "${OUT:=out/bench}"
mkdir -p "$OUT"

names=("$@")
time_by() { # name, script, arguments...
  [[ ${#names[@]} == 0 || " ${names[*]} " == *" $1 "* ]] || return 0
  printf '\n== %s (%s s)\n' "$1" "$SECONDS"
  "$PYTHON" "$2.py" "${@:3}" 2>&1 | tee "$OUT/$1_cpu.txt"
}
with_json() { time_by "$1" "$2" --json "$OUT/$1_cpu.json" "${@:3}"; }

time_by bench bench --device cpu --results "$OUT"
with_json dialects dialects --device cpu
with_json graphs graphs --device cpu
with_json matching matching --device cpu
with_json losses losses --device cpu
with_json boxes boxes --device cpu
with_json best_iou best_iou
time_by fitting fitting
with_json outside detectors --device cpu --rounds 0
with_json detectors detectors --device cpu --shapes 640x832 --counts 20,500
with_json autocast detectors --device cpu --shapes 640x832 --counts 20 --models retinanet50 --rounds 1 --autocast
with_json training training
printf '\n== done (%s s)\n' "$SECONDS"
