#!/usr/bin/env bash
# The tests, from a fresh clone, in two processes; arguments go to pytest (bash test.sh -m "not slow and not gui").
set -euo pipefail
cd "$(dirname "$0")"
. scripts/environment.sh

make_environment
make_window_possible
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
