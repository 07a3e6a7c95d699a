#!/usr/bin/env bash
# Everything that must hold before a change lands: lint, format, corridors, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff check --isolated --select PLR2004 zoo/methods/  # a method's numbers stand in its signature or have a name
ruff format --check .
lint-imports --no-cache
pyright
OMP_NUM_THREADS=1 python -m pytest -n 2 --maxschedchunk 1 "$@"
