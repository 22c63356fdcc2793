#!/usr/bin/env bash
# The main job, from a fresh clone: Nion Swift with the simulated atomic microscope scanning and rings on its atoms.
# Where there is no display it runs the same under Xvfb and leaves stem_ae_demo/ with screenshots and a report.
set -euo pipefail
cd "$(dirname "$0")"
. scripts/environment.sh

make_environment
make_window_possible
if [ $# -gt 0 ]; then
  exec "$VENV/bin/stem-ae" "$@"
elif [ "$(uname)" = Darwin ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
  exec "$VENV/bin/stem-ae" swift --simulate --project stem_ae_demo/swift
else
  exec "$VENV/bin/stem-ae" demo --output stem_ae_demo
fi
