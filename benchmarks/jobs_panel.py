"""The Simulate and Jobs panels in the real Nion Swift: image to submitted job, and what the panel costs Swift.

Starts Swift with the simulated microscope (under Xvfb where there is no display), finds the atoms of a frame of about
2000 and submits all of them, and a patch of about 91. Then 1000 short jobs are worked on while the Jobs panel is open.

    python benchmarks/jobs_panel.py [--jobs 1000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


# --- in Swift ---------------------------------------------------------------------------------------------------------


async def measure(window: Any, seconds: float) -> dict[str, Any]:
    """Return the times."""
    from simulate_scenarios import JobsPanel, SimulatePanel, panel, scan_once

    from nionswift_plugin.stem_ae_app import screen

    screen.fill_screen(window)
    screen.show_only(window, SimulatePanel.panel_id)
    item = await scan_once(window, fov_nm=7.2, size=512, dwell_us=8.0)
    screen.workspace(window).display_panels[0].request_focus()
    simulate, jobs = panel(window, SimulatePanel).model, panel(window, JobsPanel).model
    simulate.start()
    answer = {
        "whole": [await submit(window, simulate, item, None) for _ in range(5)],
        "patch": [await submit(window, simulate, item, 0.21) for _ in range(5)],
    }
    screen.show_only(window, JobsPanel.panel_id)
    times = record_updates(jobs)
    jobs.start()
    await screen.wait_until(lambda: len(jobs.rows) == 100, "the list of jobs")
    times.clear()
    await asyncio.sleep(seconds)
    return {**answer, "updates_ms": times, "rows": len(jobs.rows), "summary": jobs.texts.summary}


async def submit(window: Any, simulate: Any, item: Any, part: float | None) -> tuple[float, str]:
    """Submit a rectangle of this part of the frame, or all of it, and return seconds and formula."""
    from nion.swift.model import Graphics

    from nionswift_plugin.stem_ae_app import screen

    display_item = window.document_model.get_display_item_for_data_item(item)
    if part and not display_item.graphics:
        graphic = Graphics.RectangleGraphic()
        graphic.bounds = ((0.5 - part / 2, 0.5 - part / 2), (part, part))
        display_item.add_graphic(graphic)
    simulate.region_index = 0 if part else 1
    simulate.refresh()
    await asyncio.sleep(4.0)
    await screen.wait_until(lambda: simulate.texts.structure, lambda: f"a preview ({simulate.texts})")
    start = time.perf_counter()
    simulate.export()
    while "Submitted" not in simulate.texts.message:
        await asyncio.sleep(0)
    return time.perf_counter() - start, simulate.texts.structure.splitlines()[0]


def record_updates(jobs: Any) -> list[float]:
    """Return a list that grows by the time in ms that each new list of jobs holds the user interface thread."""
    update, times = jobs._JobsModel__update, []

    def recording(table: Any) -> None:
        start = time.perf_counter()
        update(table)
        times.append(1e3 * (time.perf_counter() - start))

    jobs._JobsModel__update = recording
    return times


# --- outside ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Fill a queue, run Swift and print what it answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look at the list")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="stem_ae_jobs_panel_"))
    sys.path.insert(0, str(ROOT))
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "scenarios")]), "OMP_NUM_THREADS": "1",
        "XDG_DATA_HOME": str(folder),
    }  # fmt: skip
    from stem_ae import jobs, simulate
    from stem_ae.launch.process import run_scenario

    queue = jobs.Queue.open()
    start = time.perf_counter()
    for _ in range(arguments.jobs):
        queue.submit(simulate.Command("sleep 0.01"), priority=1)
    each = 1e3 * (time.perf_counter() - start) / arguments.jobs
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {each:.1f} ms per submission")
    try:
        answer = run_scenario(
            "benchmarks.jobs_panel:measure", folder / "swift", timeout_s=400, seconds=arguments.seconds
        )
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((queue.worker_folder / "pid").read_text()), signal.SIGKILL)
    for what in ("whole", "patch"):
        times = [seconds for seconds, _ in answer[what]]
        print(f"click to submitted job: median {np.median(times):.3f} s, most {max(times):.3f} s  {answer[what][0][1]}")
    updates = answer["updates_ms"]
    print(
        f"{len(updates)} new lists of {answer['rows']} jobs ({answer['summary']}): the user interface thread is held "
        f"for {np.median(updates):.2f} ms (median), {max(updates):.2f} ms (most)"
    )


if __name__ == "__main__":
    main()
