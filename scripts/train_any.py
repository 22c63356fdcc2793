"""Train the bundled model "any" and write it to a file: python scripts/train_any.py OUTPUT.safetensors.

Takes about forty CPU minutes; stopped and called again, it goes on where it was. Its log is the standard output.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import torch

from stem_ae.elit.build import Plan
from stem_ae.elit.build_any import build_any
from stem_ae.elit.training import Recipe


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--patches", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()

    def report(what: str, done: int, total: int, loss: float) -> None:
        if done == total or done % 500 == 0:
            print(f"{time.process_time() - start:6.0f} CPU-s  {what}: {done} of {total}, loss {loss:.4f}", flush=True)

    recipe = Recipe(steps=arguments.steps)
    plan = Plan(arguments.members, arguments.patches, recipe=recipe, seed=arguments.seed)
    ensemble = build_any(arguments.output, plan, report=report)
    print(f"{arguments.output}: version {ensemble.version}")


if __name__ == "__main__":
    main()
