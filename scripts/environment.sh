# Sourced by run.sh, test.sh and .ci/run: makes .venv with stem_ae in it and sees to what the window needs.
# STEM_AE_PYTHON names the Python to use (3.11 to 3.13), STEM_AE_VENV another place than .venv.

VENV=${STEM_AE_VENV:-.venv}
SYSTEM_PACKAGES="libegl1 libgl1 libopengl0 libglib2.0-0 libdbus-1-3 libfontconfig1 fonts-dejavu-core libxkbcommon-x11-0 libxcb-cursor0
  libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libxcb-xkb1"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Install Debian packages where we may (root, apt-get), or say in one line how to.
debian_packages() { # WHY PACKAGE...
  local why=$1; shift
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    say "Installing $why: $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
      >/dev/null || fail "apt-get could not install $*."
  else
    fail "$why is missing: sudo apt-get install $* (or your system's equivalent), then run this again."
  fi
}

find_python() {
  local candidate
  for candidate in ${STEM_AE_PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"; return
    fi
  done
  return 1
}

# Make the virtual environment, or bring it up to date when what it was made from has changed.
make_environment() { # EXTRAS
  local python stamp wanted
  stamp="$VENV/stem_ae.installed"
  wanted="$1 $(cat setup.cfg constraints.txt | cksum)"
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  if [ ! -x "$VENV/bin/python" ]; then
    find_python >/dev/null || debian_packages "Python" python3 python3-venv
    python=$(find_python) || fail "Python 3.11, 3.12 or 3.13 is needed: install one or set STEM_AE_PYTHON to it."
    say "Making $VENV with $python"
    "$python" -c 'import ensurepip' 2>/dev/null || debian_packages "Python's venv" python3-venv
    "$python" -m venv "$VENV"
  fi
  say "Installing stem_ae and Nion Swift into $VENV (some minutes the first time)"
  "$VENV/bin/pip" install -q -c constraints.txt torch
  # editable_mode=compat: Swift looks for plug-ins in folders, which setuptools' other way of editing hides from it
  "$VENV/bin/pip" install -q -c constraints.txt -e ".[$1]" --config-settings editable_mode=compat
  printf '%s' "$wanted" >"$stamp"
}

# See that Swift's launcher finds its shared libraries, and that there is a display or Xvfb.
make_window_possible() {
  [ "$(uname)" = Linux ] || return 0
  local here="$VENV/bin/NionSwiftLauncher"
  # Not grep -q: it would leave early, ldd would die of a broken pipe, and pipefail would hide what is missing.
  if ldd "$here/NionSwiftLauncher" "$here"/plugins/platforms/libqxcb.so | grep 'not found' >/dev/null; then
    # shellcheck disable=SC2086
    debian_packages "a library of Nion Swift's window" $SYSTEM_PACKAGES
  fi
  if ! "$VENV/bin/python" -c 'import pathlib, sys, sysconfig as s
v = f"{sys.version_info.major}.{sys.version_info.minor}"
places = [pathlib.Path(sys.base_prefix, "lib"), pathlib.Path(s.get_config_var("LIBPL") or "/nowhere")]
sys.exit(not any((place / f"libpython{v}.so").exists() for place in places))'; then
    debian_packages "Python's shared library" libpython3-dev
  fi
  if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && ! command -v Xvfb >/dev/null; then
    debian_packages "a display, or Xvfb to stand in for one," xvfb
  fi
}
