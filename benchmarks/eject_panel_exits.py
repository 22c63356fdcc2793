"""Presses the Eject panel's buttons in random order with random faults; each end leaves the beam off, or an alarm.

Hypothesis draws the cases: arming, running, pausing, STOP by button, banner and key, hiding, images that are deleted,
finders that fail, clocks that jump, and a blanker that hangs, raises, refuses or sticks from its k-th command on. A
case fails if the beam is not read as off from the simulated microscope and no alarm stands, if that is not said in the
panel, or if a button holds the user interface up.

    python benchmarks/eject_panel_exits.py --cases 1000
"""

from __future__ import annotations

import argparse
import time
import traceback

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.ejection_states import machine


def main() -> None:
    """Run the cases and print what has happened in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10, help="presses and mishaps in each, at most")
    options = parser.parse_args()
    start = time.perf_counter()
    with machine() as panel:
        how = settings(
            max_examples=options.cases, stateful_step_count=options.steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )  # fmt: skip
        try:
            run_state_machine_as_test(panel, settings=how)
            print("no case failed")
        except Exception:
            traceback.print_exc()
        finally:
            for what, count in panel.counts.items():
                print(f"{count:8d} {what}")
            print(f"{time.perf_counter() - start:8.0f} s")


if __name__ == "__main__":
    main()
