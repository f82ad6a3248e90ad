#!/usr/bin/env bash
# What needs a GPU, in at most 8 minutes: the embedded report, the size of the paper, agreement with the processor.
#
#   tests/benchmarks/gpu.sh                          with python3 and what it has installed
#   PYTHON=.venv/bin/python OUT=/tmp/gpu tests/benchmarks/gpu.sh
#
# Figures go into results.md beside this file ("... on cuda"), and results.md, logs and the report's run.json into $OUT.
# A step that fails or runs out of its time does not stop the others; the last line says which did.
set -u
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-reports/gpu}
mkdir -p "$OUT"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 SSLSIM_FRESH=1
failed=()

step() { # name, seconds it may take, command
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$OUT/$name.log" 2>&1 || failed+=("$name")
  tail -n 25 "$OUT/$name.log"
  echo "== $name: $((SECONDS - start)) s"
}

"$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(0))' || exit 1
step agreement 60 "$PYTHON" tests/benchmarks/run.py agreement --device cuda
step paper 260 "$PYTHON" tests/benchmarks/run.py paper --device cuda
step report 150 "$PYTHON" tests/benchmarks/run.py report --device cuda
cp tests/benchmarks/results.md "$OUT/"
echo "failed: ${failed[*]:-none}"
