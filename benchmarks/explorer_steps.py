"""Cost of one step of the explorer: update with one more measurement, and choose among all candidates.

``python benchmarks/explorer_steps.py [--device cuda]``; CPU seconds on the CPU, on a GPU seconds by the clock.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy import ndimage

from stem_ae.explore import Explorer


def step(side, points, surrogate, batch=1, repeats=3, device="cpu"):
    """Return the median seconds of a step after ``points`` measurements, warm-started, and of the first one."""
    clock = time.process_time if device == "cpu" else time.perf_counter  # what is asked comes back to the CPU
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(side + 15, side + 15)), 2)
    target = ndimage.gaussian_gradient_magnitude(image, 1.5)
    explorer = Explorer(image, surrogate=surrogate, patch=16, device=device)
    chosen = explorer.candidates[rng.choice(len(explorer.candidates), points + repeats, replace=False)]
    tell = lambda rows: explorer.tell(rows, target[tuple(rows.T)])  # noqa: E731
    tell(chosen[:points])
    spent = []
    for k in range(repeats + 1):
        before = clock()
        explorer.ask(batch)
        spent.append(clock() - before)
        if k < repeats:
            tell(chosen[points + k : points + k + 1])
    return float(np.median(spent[1:])), spent[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surrogates", nargs="*", default=["gp", "descriptor", "dkl", "auto"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "auto"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'surrogate':12s}{'candidates':>11s}{'points':>8s}{'batch':>7s}{'step':>8s}{'first':>8s}   s")
    for surrogate in arguments.surrogates:
        for side, points, batch in ((64, 50, 1), (64, 100, 1), (64, 100, 10), (64, 500, 1), (256, 100, 1)):
            warm, cold = step(side, points, surrogate, batch, device=arguments.device)
            print(f"{surrogate:12s}{side * side:11d}{points:8d}{batch:7d}{warm:8.3f}{cold:8.3f}", flush=True)


if __name__ == "__main__":
    main()
