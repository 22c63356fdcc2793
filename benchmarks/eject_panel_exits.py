"""Presses the Eject panel's buttons in random order with random faults; each end leaves the beam off, or an alarm.

Hypothesis draws the cases: arming, running, pausing, STOP by button, banner and key, hiding, images that are deleted,
finders that fail, clocks that jump, and a blanker that hangs, raises, refuses or sticks from its k-th command on. A
case fails if the beam is not read as off from the simulated microscope and no alarm stands, if that is not said in the
panel, or if a button holds the user interface up.

    python benchmarks/eject_panel_exits.py --cases 1000
"""

from __future__ import annotations

import argparse
import itertools
import time
import traceback

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test

from tests.ejection_states import machine

BATCH = 20  # cases: after more, Hypothesis begins some like one before, and finds that other buttons can be pressed


def main() -> None:
    """Run the cases and print what has happened in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10, help="presses and mishaps in each, at most")
    options = parser.parse_args()
    start = time.perf_counter()
    with machine() as panel:
        cut = failed = 0
        for batch in itertools.count():
            how = settings(
                max_examples=BATCH, stateful_step_count=options.steps, deadline=None, database=None,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            )  # fmt: skip
            try:
                run_state_machine_as_test(seed(1000 * options.seed + batch)(panel), settings=how)
            except FlakyStrategyDefinition:  # which buttons can be pressed depends on what has happened by then
                cut += 1
            except Exception:
                failed += 1
                traceback.print_exc()
            if panel.counts["cases"] >= options.cases or failed:
                break
        print("a case failed" if failed else "no case failed")
        print(f"{cut:8d} of {batch + 1} batches cut short, since Hypothesis could not repeat their beginning")
        for what, count in panel.counts.items():
            print(f"{count:8d} {what}")
        print(f"{time.perf_counter() - start:8.0f} s")


if __name__ == "__main__":
    main()
