"""Are class probabilities and ellipses what they say? Reliability over doses, materials, clean and degraded frames.

    python benchmarks/calibration.py [--frames 2] [--model graphene=PATH]     # writes docs/images/reliability.png

The expected calibration error is the mean difference between an atom's probability for its class and the share of such
atoms that are of that class. It is printed for the most likely class, and as the largest over the classes one by one.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import torch
from frames import frame, score
from numpy.typing import NDArray

from stem_ae import elit, picture
from stem_ae.scoring import calibration_error

FloatArray = NDArray[np.float64]

DOSES = {"graphene": (3e4, 1e5, 3e5, 1e6, 1e7), "mos2": (3e3, 1e4, 3e4, 1e5, 1e6)}  # e/Å²
IMAGE = pathlib.Path(__file__).parents[1] / "docs" / "images" / "reliability.png"


def probabilities(
    ensemble: elit.Ensemble, material: str, dose: float, degraded: bool, count: int
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the class probabilities ``(N, C)`` of the atoms that are there, and their true classes."""
    stated, true = [], []
    for seed in range(200, 200 + count):
        truth = frame(material, dose, degraded=degraded, seed=seed)
        atoms = ensemble.predict(truth.counts, truth.sampling, refine=False).atoms
        result = score(truth, atoms)
        stated.append(atoms.probabilities[result.found])
        true.append([ensemble.species.index(name) for name in result.true_names])
    return np.concatenate(stated), np.concatenate(true).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2, help="frames for each row")
    parser.add_argument("--model", action="append", default=[])
    arguments = parser.parse_args()
    paths = dict(item.split("=") for item in arguments.model)
    torch.set_num_threads(1)
    curves = {}
    for material, doses in DOSES.items():
        ensemble = elit.load(paths.get(material, material))
        print(f"\n**{material}**, version {ensemble.version}\n")
        print("| dose e/Å² | frames | atoms | right class | stated | calibration error | worst class |")
        print("|---|---|---|---|---|---|---|")
        everything = []
        for dose in doses:
            for degraded in (False, True):
                stated, true = probabilities(ensemble, material, dose, degraded, arguments.frames)
                everything.append((stated, true))
                print(row(dose, degraded, stated, true), flush=True)
        stated, true = (np.concatenate(parts) for parts in zip(*everything, strict=True))
        curves[material] = reliability(stated.ravel(), (true[:, None] == np.arange(stated.shape[1])).ravel())
    draw(curves)


def row(dose: float, degraded: bool, stated: FloatArray, true: NDArray[np.int64]) -> str:
    top, right = stated.max(1), stated.argmax(1) == true
    by_class = [calibration_error(stated[:, k], true == k) for k in range(stated.shape[1])]
    kind = "contamination + jitter" if degraded else "clean"
    return (f"| {dose:.0e} | {kind} | {len(true)} | {right.mean():.4f} | {top.mean():.4f} "
            f"| {calibration_error(top, right):.4f} | {max(by_class):.4f} |")


def reliability(stated: FloatArray, right: NDArray[np.bool_]) -> FloatArray:
    """Print and return what was stated, what was true, its standard error and the number of cases, in ten bins."""
    print("\n| stated | true | cases |\n|---|---|---|")
    rows = []
    of = np.minimum((stated * 10).astype(int), 9)
    for k in range(10):
        n = int((of == k).sum())
        if not n:
            continue
        mean, share = float(stated[of == k].mean()), float(right[of == k].mean())
        rows.append([mean, share, np.sqrt((share * (1 - share) + 0.25 / n) / n), n])
        print(f"| {mean:.3f} | {share:.3f} | {n} |")
    return np.array(rows)


def draw(curves: dict[str, FloatArray]) -> None:
    """Write the reliability diagram."""
    figure = picture.dark_figure(9.0, 4.6)
    for axes, (material, curve) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=picture.INK, linewidth=1, linestyle=":")
        axes.errorbar(curve[:, 0], curve[:, 1], curve[:, 2], color="#4fc3f7", marker="o", capsize=3)
        axes.set(xlabel="stated probability of a class", ylabel="share of that class", xlim=(-0.03, 1.03))
        axes.set(ylim=(-0.03, 1.03), facecolor="#00000000")
        axes.set_title(material, color=picture.INK)
        axes.tick_params(colors=picture.INK)
        axes.xaxis.label.set_color(picture.INK)
        axes.yaxis.label.set_color(picture.INK)
    picture.save(figure, IMAGE, dpi=90)


if __name__ == "__main__":
    main()
