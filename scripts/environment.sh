# Sourced by run.sh, test.sh and .ci/run: makes .venv with stem_ae in it and sees to what the window needs.
# STEM_AE_PYTHON names the Python to use (3.11 to 3.13), otherwise it is the newest of these that is there;
# STEM_AE_VENV names another place than .venv.

PYTHONS="3.13 3.12 3.11"  # that stem_ae runs on, the preferred one first
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

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; } # PYTHON

# Say whether Swift's launcher finds libpython: a Python that was built without it cannot run Swift.
has_library() { # PYTHON
  [ "$(uname)" != Linux ] || "$1" -c 'import pathlib, sys, sysconfig as s
v = f"{sys.version_info.major}.{sys.version_info.minor}"
places = [pathlib.Path(sys.base_prefix, "lib"), pathlib.Path(s.get_config_var("LIBPL") or "/nowhere")]
sys.exit(not any((place / f"libpython{v}.so").exists() for place in places))'
}

# Print the path of a Python of this version: on the PATH, or where pyenv, uv and python.org's installer keep theirs.
find_version() { # 3.13
  local candidate
  for candidate in "python$1" python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python \
      "$(uv python find --no-project "$1" 2>/dev/null)" /Library/Frameworks/Python.framework/Versions/"$1"/bin/python3; do
    # Ask it, since pyenv puts commands on the PATH for versions, too, that are switched off.
    [ -n "$candidate" ] && [ "$(version_of "$candidate")" = "$1" ] || continue
    # What the system's Python lacks can be installed.
    if has_library "$candidate" || "$candidate" -c 'import sys; sys.exit(sys.base_prefix != "/usr")'; then
      "$candidate" -c 'import sys; print(sys.executable)'; return
    fi
  done
  return 1
}

# Print the path of the Python to use: the one that was asked for, by its version or its path, or the newest.
find_python() {
  local version asked=${STEM_AE_PYTHON:-}
  for version in $PYTHONS; do
    case "$asked" in ""|"$version"|"python$version") find_version "$version" && return ;; esac
    if [ -n "$asked" ] && [ "$(version_of "$asked")" = "$version" ]; then command -v "$asked"; return; fi
  done
  return 1
}

# Make the virtual environment, or bring it up to date when what it was made from has changed.
#
# Python 3.11 gets the versions of constraints.txt: the oldest Nion Swift that we support, its last for that Python, and
# what was tested with it. Later Pythons get the newest of everything, today's Swift included.
make_environment() {
  local python stamp wanted pins
  if [ -n "${STEM_AE_PYTHON:-}" ]; then
    python=$(find_python) || fail "STEM_AE_PYTHON=$STEM_AE_PYTHON is no Python 3.11, 3.12 or 3.13."
    if [ -x "$VENV/bin/python" ] && [ "$(version_of "$VENV/bin/python")" != "$(version_of "$python")" ]; then
      fail "$VENV has another Python than STEM_AE_PYTHON: remove it, or set STEM_AE_VENV to another folder."
    fi
  fi
  stamp="$VENV/stem_ae.installed"
  wanted=$(cat setup.cfg constraints.txt | cksum)
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  if [ ! -x "$VENV/bin/python" ]; then
    find_python >/dev/null || debian_packages "Python" python3 python3-venv
    python=$(find_python) || fail "Python 3.11, 3.12 or 3.13 is needed: install one or set STEM_AE_PYTHON to it."
    say "Making $VENV with $python"
    "$python" -c 'import ensurepip' 2>/dev/null || debian_packages "Python's venv" "python$(version_of "$python")-venv"
    "$python" -m venv "$VENV"
  fi
  pins=""
  if [ "$(version_of "$VENV/bin/python")" = 3.11 ]; then pins="-c constraints.txt"; fi
  say "Installing stem_ae and Nion Swift into $VENV (some minutes the first time)"
  # torch stands first, so that whichever build of it is wanted is there before the rest asks for one.
  # shellcheck disable=SC2086
  "$VENV/bin/pip" install -q $pins torch
  # editable_mode=compat: Swift looks for plug-ins in folders, which setuptools' other way of editing hides from it
  # shellcheck disable=SC2086
  "$VENV/bin/pip" install -q $pins -e ".[swift,test]" --config-settings editable_mode=compat
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
  if ! has_library "$VENV/bin/python"; then
    debian_packages "Python's shared library" "libpython$(version_of "$VENV/bin/python")-dev"
  fi
  if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && ! command -v Xvfb >/dev/null; then
    debian_packages "a display, or Xvfb to stand in for one," xvfb
  fi
}
