"""A screen for the window: the user's own, or a virtual one (Xvfb) where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from stem_ae.errors import StemAeError

HOW_TO_GET_XVFB = "sudo apt-get install xvfb (Debian, Ubuntu), sudo dnf install xorg-x11-server-Xvfb (Fedora)"


def has_display() -> bool:
    """Return whether windows can be shown; on Windows and macOS a session always has a screen."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextlib.contextmanager
def virtual_display(size: tuple[int, int] = (1760, 990)) -> Iterator[str]:
    """Run an X server without a screen and yield its name, such as ``":99"``.

    Parameters
    ----------
    size : (int, int)
        Width and height in pixels.

    Raises
    ------
    StemAeError
        If Xvfb is not installed or does not start.
    """
    program = shutil.which("Xvfb")
    if program is None:
        raise StemAeError(f"There is no display and no Xvfb to stand in for one: {HOW_TO_GET_XVFB}.")
    readable, writable = os.pipe()
    command = [program, "-displayfd", str(writable), "-screen", "0", f"{size[0]}x{size[1]}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writable], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writable)
    try:
        with os.fdopen(readable) as pipe:  # Xvfb writes the number it took once it accepts connections
            number = pipe.readline().strip()
        if not number:
            raise StemAeError("Xvfb ended before it was ready: run it by hand to see why.")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(timeout=10)
