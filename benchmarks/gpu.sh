#!/bin/sh
# Every engine benchmark on a GPU, and their results in benchmarks/results/gpu/.
#
# Reach on an H100: 50 % of the limit that bench_engine.py prints, and 5 million queries/s over 100,000 memories.
# Needs a GPU that PyTorch for CUDA sees (`make` installs that where pip finds no CPU wheel) and 40 GiB of its memory;
# MEMORIES says how many memories of 66 KB there are.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "PyTorch sees no CUDA device here")'
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
"$python" -m pytest -q tests/engine/test_cuda.py tests/training/test_metagradient.py
kept=benchmarks/results/gpu
mkdir -p "$kept"
for memories in 256 8192 "${MEMORIES:-131072}"; do
    "$python" benchmarks/bench_engine.py --device cuda --memories "$memories" --results "$kept/bench_engine_$memories.json"
done
