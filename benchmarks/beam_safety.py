"""Random ends of plans and eject runs with a fault: afterwards the beam is off, or the alarm raised and reported.

Cases are drawn by Hypothesis (tests/beam_machine.py says of what). The true state of the beam is the instrument's.

    python benchmarks/beam_safety.py --cases 1000 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import pathlib
import sys

import hypothesis
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.beam_machine import carried_out, cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    ends = []

    @hypothesis.seed(args.seed)
    @hypothesis.settings(
        max_examples=args.cases, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(cases())
    def play(case):
        ends.append(carried_out(case))

    play()
    stops = 1e3 * np.array([e.stop_s for e in ends if e.case.deed in ("stop", "abort", "disarm")])
    print(
        json.dumps(
            {
                "settings": vars(args),
                "cases": len(ends),
                "right": sum(not e.fault for e in ends),
                "wrong": [f"{e.fault}: {e.case}" for e in ends if e.fault],
                "beam on at the end, alarm told": sum(e.on for e in ends),
                "beam off, alarm told all the same": sum(bool(e.alarm) and not e.on for e in ends),
                "stop_ms": {f"p{q}": round(float(np.percentile(stops, q)), 1) for q in (50, 99, 100)},
                "runs": dict(collections.Counter(e.case.run for e in ends)),
                "faults": dict(collections.Counter(e.case.fault for e in ends).most_common()),
                "deeds": dict(collections.Counter(e.case.deed for e in ends).most_common()),
                "outcomes": dict(collections.Counter(e.outcome for e in ends).most_common()),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
