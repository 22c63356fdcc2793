"""The live overlay in the real Nion Swift: overlays per second, latency, how often the user interface gets its turn.

Starts Swift with the simulated microscope (under Xvfb where there is no display), scans and lets the Atoms panel work.

    python benchmarks/live_overlay.py [--seconds 20] [--model graphene] [--screenshot FILE]
    python benchmarks/live_overlay.py --soak 60      # memory over an hour
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
SAMPLING = 0.1  # Å per pixel of the scans
DWELL_US = {256: 1.4, 512: 1.0}
SOAK_DWELL_US = 2.0
GOALS = {256: "(goal: >= 8 overlays/s, p95 <= 200 ms, gap p95 <= 60 ms)", 512: "(goal: >= 3 overlays/s)"}


# --- in Swift -------------------------------------------------------------------------------------------------------


class Gaps:
    """Times between the turns that the user interface's event loop gets, in ms."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.values.append(1e3 * (now - last))
            last = now

    def stop(self) -> list[float]:
        """Return the times."""
        self._task.cancel()
        return self.values


def record_latencies() -> list[float]:
    """Return a list that grows by the latency in ms of each result when its rings are first drawn."""
    from stem_ae.elit import live

    latencies: list[float] = []
    shown = live.LiveWorker.shown
    last: list[Any] = [None]

    def recording(self: live.LiveWorker, result: live.Result) -> None:
        if result is not last[0]:
            last[0] = result
            latencies.append(1e3 * (time.perf_counter() - result.frame.ready))
        shown(self, result)

    live.LiveWorker.shown = recording  # type: ignore[method-assign]
    return latencies


def memory_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def begin(window: Any, model: str, size: int, dwell_us: float) -> Any:
    """Scan, start the Atoms panel and return its model."""
    from nion.utils import Geometry

    from nionswift_plugin.stem_ae_app import demo, screen

    scan = demo.simulated_scan()
    scan.abort_playing(sync_timeout=5.0)
    parameters = scan.get_frame_parameters(scan.selected_profile_index)
    parameters.pixel_size = Geometry.IntSize(size, size)
    parameters.fov_nm = size * SAMPLING / 10
    parameters.pixel_time_us = dwell_us
    scan.set_frame_parameters(scan.selected_profile_index, parameters)
    atoms = demo.show(window, scan)
    demo.beside(window)
    await demo.scanning(window, scan)
    atoms.source_index, atoms.model_index = 0, atoms.model_names.index(model)
    atoms.start()
    await screen.wait_until(lambda: atoms.texts.status.startswith("Live"), "rings", 240)
    return atoms


async def measure(
    window: Any, model: str, seconds: float, screenshot: str, sizes: tuple[int, ...] = tuple(DWELL_US)
) -> list[dict[str, Any]]:
    """Return the figures for each frame size."""
    from nionswift_plugin.stem_ae_app import screen

    screen.fill_screen(window)
    latencies = record_latencies()
    answers = []
    for size in sizes:
        atoms = await begin(window, model, size, DWELL_US[size])
        await asyncio.sleep(4.0)  # everything is warm
        latencies.clear()
        gaps, start = Gaps(), time.perf_counter()
        await asyncio.sleep(seconds)
        await screen.wait_until(lambda: latencies, lambda model=atoms: f"an overlay (the panel says {model.texts})")
        elapsed, drawn = time.perf_counter() - start, list(latencies)
        answers.append(
            {
                "size": size,
                "atoms": atoms.texts.status,
                "overlays_per_s": len(drawn) / elapsed,
                "latency_ms": [float(np.percentile(drawn, q)) for q in (50, 95)],
                "gap_ms": [float(np.percentile(gaps.stop(), q)) for q in (50, 95, 100)],
                "statistics": atoms.texts.statistics,
            }
        )
        if screenshot:
            path = pathlib.Path(screenshot)
            screen.grab(path.with_stem(f"{path.stem}_{size}"))
    return answers


async def soak(window: Any, model: str, minutes: float) -> list[tuple[float, float, str]]:
    """Return minutes, memory in MB and the panel's own figures, twice a minute."""
    from nionswift_plugin.stem_ae_app import screen

    screen.fill_screen(window)
    atoms = await begin(window, model, 256, SOAK_DWELL_US)
    start, answers = time.monotonic(), []
    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        answers.append((elapsed, memory_mb(), atoms.texts.statistics.replace("\n", "; ")))
        print("SOAK {:6.1f} min {:8.1f} MB  {}".format(*answers[-1]), flush=True)  # for whoever follows the log
        await asyncio.sleep(30.0)
    return answers


# --- outside --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run Swift and print what it answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure at each frame size")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="scan that long and print the memory")
    parser.add_argument("--model", default="graphene")
    parser.add_argument("--screenshot", default="", metavar="FILE")
    parser.add_argument("--folder", type=pathlib.Path, help="where Swift keeps its project and log (default: scratch)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = str(ROOT)
    from stem_ae.launch.process import run_scenario

    folder = arguments.folder or pathlib.Path(tempfile.mkdtemp(prefix="stem_ae_live_"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; log in {folder}")
    if arguments.soak:
        rows = run_scenario(
            "benchmarks.live_overlay:soak", folder, timeout_s=60 * arguments.soak + 180, model=arguments.model,
            minutes=arguments.soak,
        )
        for minutes, memory, statistics in rows:
            print(f"{minutes:6.1f} min {memory:8.1f} MB   {statistics}")
        settled = [(m, mb) for m, mb, _ in rows if m >= min(5.0, arguments.soak / 4)]
        slope = np.polyfit(*zip(*settled, strict=True), 1)[0] * 60
        print(f"after the start-up: {slope:+.1f} MB per hour")
        return
    screenshot = str(pathlib.Path(arguments.screenshot).absolute()) if arguments.screenshot else ""
    answers = run_scenario(
        "benchmarks.live_overlay:measure", folder, timeout_s=240 + 4 * arguments.seconds, model=arguments.model,
        seconds=arguments.seconds, screenshot=screenshot,
    )
    for a in answers:
        print(f"{a['size']} x {a['size']}: {a['overlays_per_s']:.1f} overlays/s, {a['atoms']}  {GOALS[a['size']]}")
        print("  frame ready to rings drawn: p50 {:.0f} ms, p95 {:.0f} ms".format(*a["latency_ms"]))
        print("  user interface event gap: p50 {:.0f} ms, p95 {:.0f} ms, longest {:.0f} ms".format(*a["gap_ms"]))
        print("  the panel says: {}".format(a["statistics"].replace("\n", "; ")))


if __name__ == "__main__":
    main()
