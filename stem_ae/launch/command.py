"""``stem-ae swift`` and ``stem-ae demo``: the real Nion Swift, open for the user or run for a report."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any


def add_parsers(subparsers: Any) -> None:
    """Add ``swift`` and ``demo`` to the command line."""
    swift = subparsers.add_parser(
        "swift",
        help="open Nion Swift, if wanted with the simulated microscope scanning",
        description="Open Nion Swift. With --simulate it controls the simulated atomic microscope, scans, and has the "
        "Atoms panel running.",
    )
    swift.add_argument("--simulate", action="store_true", help="with the simulated microscope, scanning")
    swift.add_argument(
        "--project", type=pathlib.Path, metavar="FOLDER",
        help="keep project and settings in this folder, apart from your own Swift's",
    )  # fmt: skip
    swift.set_defaults(run=run_swift)
    demo = subparsers.add_parser(
        "demo",
        help="run Nion Swift with the simulated microscope and keep a report",
        description="Start Nion Swift with the simulated microscope, find the atoms of its live images, and leave "
        "screenshots, atoms, uncertainty maps and a one-page report. On Linux it runs under Xvfb, out of sight.",
    )
    demo.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("stem_ae_demo"), metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )  # fmt: skip
    demo.add_argument("--seconds", type=float, default=8.0, metavar="S", help="to look at each specimen (%(default)s)")
    demo.add_argument("--json", action="store_true", help="print the answer as JSON")
    demo.set_defaults(run=run_demo)


def run_swift(arguments: argparse.Namespace) -> int:
    """Open Swift and wait until it is closed."""
    from stem_ae.launch import process
    from stem_ae.launch.order import Order

    folder = arguments.project.absolute() if arguments.project else None
    scenario = "nionswift_plugin.stem_ae_app.demo:live" if arguments.simulate else None
    return process.run_swift(Order(folder, scenario), arguments.simulate)


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration and say where its report is."""
    from stem_ae.launch import demo

    stages = demo.run(arguments.output, arguments.seconds)
    if arguments.json:
        print(json.dumps(stages))
        return 0
    for stage in stages:
        counts = ", ".join(f"{count} {name}" for name, count in stage["counts"].items())
        print(f"{stage['name']}: {counts}; recall {stage['recall']:.3f}, precision {stage['precision']:.3f}")
    print(f"The report: {arguments.output / 'report.html'}")
    return 0
