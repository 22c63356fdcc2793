"""How soon after an ejection does the detector know, at how many false alarms, and beside a threshold on the signal.

An S2 column of MoS2 under a parked 60 pA, 60 kV beam loses one S at a random moment. Levels are those of the image
model (HAADF, neighbours' tails and detector background included). The threshold policy stops when the running mean over
1 ms is 12 or 15 % below the level at the start, the jumps that are published as presets for atom manipulation; it is
also run on single exposures.

Each row has two theoretical minima of the mean delay: Lorden's leading term, which knows no readings, and the best
possible with readings of this length: the exact worst-case mean delay of the optimal test (Moustakides 1986), a step
falling at the beginning of a reading. In the middle of one it gives some evidence already, or waits for the rest.

    python benchmarks/step_detector.py --ejections 500
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from stem_ae import Atoms2D
from stem_ae.imaging import specimens
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.manipulate import StepDetector, signal_levels, step

BACKGROUND = 2e-5  # of the beam reaches the detector anyway


def levels(current_pa):
    """Return the counts per second on an S2 column, and on the same column with one S."""
    xy, names = specimens.mos2((30.0, 30.0), 0.0, 0.0).columns()
    n, species = len(xy), ("Mo", "S2")
    labels = np.array([species.index(name) for name in names])
    atoms = Atoms2D(xy, np.zeros((n, 2, 2)), labels, species, np.eye(2)[labels], np.ones(n), (300, 300), 0.1)
    target = int(np.argmin(np.linalg.norm(xy - 15.0, axis=1) + 100 * (labels == 0)))
    molybdenum, sulphur = cross_section([42, 16])
    weights = {"Mo": molybdenum, "S2": 2 * sulphur}
    return signal_levels(atoms, target, weights, sulphur, 1, AberratedProbe(), current_pa, BACKGROUND)


def readings(rng, before, after, exposure, wait):
    """Return the counts of exposures with a step at ``wait`` seconds and enough time to see it."""
    edges = np.arange(int(wait / exposure) + 2 + max(400, int(5e-3 / exposure))) * exposure
    seconds_after = np.clip(edges[1:] - wait, 0, exposure)
    return rng.poisson(before * (exposure - seconds_after) + after * seconds_after)


def cusum_stop(before, after, rate, exposure, counts):
    detector = StepDetector(before=before, after=after, false_alarm_per_s=rate)
    for n, k in enumerate(counts, 1):
        if detector.update(k, exposure):
            return n
    return None


def threshold_stop(before, jump, window, exposure, counts):
    width = max(1, round(window / exposure))
    mean = np.convolve(counts, np.ones(width) / width, "valid") / exposure
    low = np.flatnonzero(mean < (1 - jump) * before)
    return int(low[0]) + width if len(low) else None


def outcome(stops, waits, exposure):
    times = np.array([np.inf if n is None else n * exposure for n in stops])
    delay = times - waits
    seen = (delay > 0) & np.isfinite(delay)
    return {
        "false_alarms": int((delay <= 0).sum()),
        "missed": int(np.isinf(delay).sum()),
        "mean_delay_us": float(delay[seen].mean() * 1e6) if seen.any() else None,
        "p95_delay_us": float(np.percentile(delay[seen], 95) * 1e6) if seen.any() else None,
    }


def measure(before, after, rate, exposure, ejections, seed):
    rng = np.random.default_rng(seed)
    waits = 5e-3 + rng.exponential(1000 * exposure, ejections)  # long enough for the 1 ms window to fill
    streams = [readings(rng, before, after, exposure, wait) for wait in waits]
    best = step.expected_delay_s(before, after, rate, exposure)
    bound = step.lorden_bound_s(before, after, rate, exposure)
    row = {
        "exposure_us": exposure * 1e6, "counts_before": before * exposure, "seconds": float(waits.sum()),
        "lorden_term_us": bound * 1e6, "best_possible_us": best * 1e6,
    }  # fmt: skip
    cusum = outcome([cusum_stop(before, after, rate, exposure, c) for c in streams], waits, exposure)
    cusum["expected_false_alarms"] = float(rate * waits.sum())
    cusum["over_best_possible"] = cusum["mean_delay_us"] / best / 1e6
    cusum["over_lorden_term"] = cusum["mean_delay_us"] / bound / 1e6
    row["cusum"] = cusum
    for jump in (0.12, 0.15):
        for window in (exposure, 1e-3):
            stops = [threshold_stop(before, jump, window, exposure, c) for c in streams]
            row[f"threshold {jump:.0%} over {window * 1e6:g} us"] = outcome(stops, waits, exposure)
    return row


def false_alarms(before, after, rate, exposure, exposures, seed):
    """Measured false alarms per second over what was asked for."""
    detector = StepDetector(before=before, after=after, false_alarm_per_s=rate)
    alarms = 0
    for k in np.random.default_rng(seed).poisson(before * exposure, exposures):
        if detector.update(k, exposure):
            alarms += 1
            detector.reset()
    return {
        "exposure_us": exposure * 1e6,
        "asked_per_s": rate,
        "computed_per_s": step.false_alarm_rate(before, after, detector.threshold_for(exposure), exposure),
        "measured_per_s": alarms / exposures / exposure,
        "alarms": alarms,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ejections", type=int, default=500)
    parser.add_argument("--current", type=float, default=60.0, help="pA")
    parser.add_argument("--rate", type=float, default=0.01, help="false alarms per second")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    before, after = levels(args.current)
    result = {
        "before_per_s": before,
        "after_per_s": after,
        "rows": [measure(before, after, args.rate, t, args.ejections, args.seed) for t in (1e-6, 5e-6, 1e-5, 1e-4)],
        "false_alarms": [false_alarms(before, after, 1e-3 / t, t, 300_000, args.seed) for t in (1e-6, 5e-6, 1e-5)],
    }
    result["run_s"] = time.perf_counter() - start
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
