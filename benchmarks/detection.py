"""Recall, precision, classes and position error on simulated frames, beside the Cramér-Rao bound.

Run ``python benchmarks/detection.py [--frames 2] [--model graphene=PATH]``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from frames import frame, score

from stem_ae import elit
from stem_ae.imaging.bound import joint_position_bound
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene, mos2

DOSES = {"graphene": (1e5, 3e5, 1e6, 3e6, 1e7), "mos2": (1e4, 3e4, 1e5, 3e5, 1e6)}
MAJOR = {"graphene": "C", "mos2": "S2"}
MINOR = {"graphene": "Si", "mos2": "S1"}


def bound(material: str, dose: float) -> float:
    """Return the joint bound in Å (one dimension) of an interior C, or S2 column."""
    size, sampling = (96, 96), 0.104
    build = graphene((9.98, 9.98), silicon=0.0) if material == "graphene" else mos2((9.98, 9.98), 0.0, 0.0)
    xy, names = build.columns()
    number = {"C": 1, "Mo": 1, "S2": 2}
    element = {"C": 6, "Mo": 42, "S2": 16}
    weights = np.array([number[n] * cross_section(element[n]) for n in names])
    covariance = joint_position_bound(xy, weights, 1e-5, size, sampling, 0.5, electrons_for_dose(dose, sampling))
    chosen = next(k for k in np.argsort(((xy - 4.99) ** 2).sum(1)) if names[k] == MAJOR[material])
    return float(np.sqrt(np.trace(covariance[chosen]) / 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--model", action="append", default=[])
    arguments = parser.parse_args()
    paths = dict(item.split("=") for item in arguments.model)
    torch.set_num_threads(1)
    for material, doses in DOSES.items():
        ensemble = elit.load(paths.get(material, material))
        count = len(ensemble.members)
        print(f"\n{material}: {count} networks, version {ensemble.version}, 512 x 512 at 0.104 Å/px")
        minor = MINOR[material]
        print(
            f"| dose e/Å² | frames | recall | precision | {minor} recall | {minor} precision "
            f"| RMSE {MAJOR[material]} Å | joint bound Å | in 95 % ellipse |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for dose in doses:
            for degraded in (False, True):
                print(row(ensemble, material, dose, degraded, arguments.frames))


def row(ensemble: elit.Ensemble, material: str, dose: float, degraded: bool, frames: int) -> str:
    recalls, precisions, minors, squares, inside = [], [], [], [], []
    for seed in range(frames):
        truth = frame(material, dose, degraded=degraded, seed=seed)
        atoms = ensemble.predict(truth.counts, truth.sampling).atoms
        result = score(truth, atoms)
        recalls.append(result.recall)
        precisions.append(result.precision)
        minors.append(result.of_class(MINOR[material]))
        major = result.true_names == MAJOR[material]
        errors = result.errors[major]
        squares.append((errors**2).ravel())
        precision = np.linalg.inv(atoms.covariance[result.found[major]])
        inside.append(np.einsum("ni,nij,nj->n", errors, precision, errors) < 5.991)
    rmse = float(np.sqrt(np.concatenate(squares).mean()))
    minor = np.mean(minors, axis=0)
    kind = "contamination + jitter" if degraded else "clean"
    return (
        f"| {dose:.0e} | {kind} | {np.mean(recalls):.4f} | {np.mean(precisions):.4f} | {minor[0]:.3f} | {minor[1]:.3f} "
        f"| {rmse:.4f} | {bound(material, dose):.4f} | {np.concatenate(inside).mean():.3f} |"
    )


if __name__ == "__main__":
    main()
