"""Running Nion Swift's launcher with an order."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO

from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.launch import display
from stem_ae.launch.order import Order

APPLICATION = "nionswift_plugin.stem_ae_app"
CLOSING_S = 15.0
"""How long Swift may take to close its project once the scenario has answered."""


def launcher() -> pathlib.Path:
    """Return Nion Swift's native launcher in this Python environment.

    Raises
    ------
    StemAeError
        If Nion Swift is not installed here.
    """
    places = {
        "win32": "Scripts/NionSwiftLauncher/NionSwift.exe",
        "darwin": "bin/Nion Swift.app/Contents/MacOS/Nion Swift",
    }
    path = pathlib.Path(sys.exec_prefix, places.get(sys.platform, "bin/NionSwiftLauncher/NionSwiftLauncher"))
    if importlib.util.find_spec("nion") is None or not path.exists():
        raise StemAeError(
            "Nion Swift is not installed in this Python environment: pip install 'stem_ae[swift]', "
            "or run stem-ae with the Python that Swift runs in."
        )
    return path


def start(
    order: Order, order_path: pathlib.Path, environment: dict[str, str], log: BinaryIO | None = None
) -> subprocess.Popen[bytes]:
    """Start Swift with the order, its output going to ``log`` (``None``: to this process's)."""
    command = [str(launcher()), sys.prefix, APPLICATION, str(order.write(order_path))]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT if log else None)


def swift_environment(simulate: bool) -> dict[str, str]:
    """Return the environment for Swift: this process's, with this very stem_ae, and the simulator if it is wanted."""
    environment = processes.environment()
    if simulate:
        environment["STEM_AE_SIMULATE"] = "1"
    return environment


def run_swift(order: Order, simulate: bool) -> int:
    """Open Swift on the user's screen, wait until it is closed and return its exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        return start(order, pathlib.Path(scratch, "order.json"), swift_environment(simulate)).wait()


def run_scenario(
    scenario: str,
    folder: pathlib.Path,
    *,
    simulate: bool = True,
    timeout_s: float = 120.0,
    virtual: bool | None = None,
    **options: Any,
) -> Any:
    """Run a scenario in a real Nion Swift and return its answer.

    Parameters
    ----------
    scenario : str
        ``package.module:function``, an ``async`` function of the document window and of ``options``. It runs in Swift's
        user interface thread and returns what JSON can say.
    folder : path
        Where Swift keeps its project and settings, and ``swift.log`` its output.
    simulate : bool
        Register the simulated atomic microscope.
    timeout_s : float
        Seconds after which Swift is ended.
    virtual : bool or None
        Use a virtual display; ``None``: where there is no other.

    Raises
    ------
    StemAeError
        If Swift cannot be started, fails in the scenario or does not finish in time.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    order = Order(folder, scenario, options, close=True, result=result)
    log_path = folder / "swift.log"
    with contextlib.ExitStack() as stack:
        environment = swift_environment(simulate)
        if virtual or (virtual is None and not display.has_display()):
            environment["DISPLAY"] = stack.enter_context(display.virtual_display())
            environment["QT_QPA_PLATFORM"] = "xcb"
            environment["LIBGL_ALWAYS_SOFTWARE"] = "1"
        log = stack.enter_context(open(log_path, "wb"))
        process = start(order, folder / "order.json", environment, log)
        finished = wait(process, result, timeout_s)
    if not finished:
        raise StemAeError(f"Nion Swift did not finish within {timeout_s:.0f} s; see {log_path}.")
    if not result.exists():
        raise StemAeError(f"Nion Swift ended without an answer (exit code {process.returncode}); see {log_path}.")
    answer = json.loads(result.read_text(encoding="utf-8"))
    if "error" in answer:
        raise StemAeError(f"The scenario failed in Nion Swift: {answer['error'].splitlines()[-1]} (see {log_path}).")
    return answer["value"]


def wait(process: subprocess.Popen[bytes], result: pathlib.Path, timeout_s: float) -> bool:
    """Wait for the answer and then for the process, which is ended if it lingers; return whether it was in time."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and not result.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    in_time = process.poll() is not None or result.exists()
    try:
        process.wait(timeout=CLOSING_S if in_time else 0.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return in_time
