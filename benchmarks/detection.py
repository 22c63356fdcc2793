"""Recall, precision, classes and position error on simulated frames, beside the Cramér-Rao bound.

Run ``python benchmarks/detection.py [--frames 4] [--model graphene=PATH]``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from frames import frame, score
from numpy.typing import NDArray

from stem_ae import elit
from stem_ae.imaging.bound import joint_position_bound
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene, mos2

DOSES = {"graphene": (1e5, 3e5, 1e6, 3e6, 1e7), "mos2": (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)}
CLASSES = {"graphene": ("C", "Si"), "mos2": ("Mo", "S2", "S1")}
MINOR = {"graphene": "Si", "mos2": "S1"}
USUAL = {"C": "C", "Si": "C", "Mo": "Mo", "S2": "S2", "S1": "S2"}  # what is where a column of this class can be
INTERIOR = 3.0  # Å from the frame's edge: the bound is that of an interior atom


def bound(material: str, dose: float, name: str) -> float:
    """Return the joint bound in Å (one dimension) of an interior column of a class."""
    size, sampling = (96, 96), 0.104
    build = graphene((9.98, 9.98), silicon=0.0) if material == "graphene" else mos2((9.98, 9.98), 0.0, 0.0)
    xy, names = build.columns()
    number = {"C": 1, "Si": 1, "Mo": 1, "S2": 2, "S1": 1}
    element = {"C": 6, "Si": 14, "Mo": 42, "S2": 16, "S1": 16}
    chosen = next(k for k in np.argsort(((xy - 4.99) ** 2).sum(1)) if names[k] == USUAL[name])
    names = [name if k == chosen else other for k, other in enumerate(names)]
    weights = np.array([number[n] * cross_section(element[n]) for n in names])
    covariance = joint_position_bound(xy, weights, 1e-5, size, sampling, 0.5, electrons_for_dose(dose, sampling))
    return float(np.sqrt(np.trace(covariance[chosen]) / 2))


def bound_with_jitter(material: str, dose: float, name: str) -> float:
    """Return the error in Å (one dimension) of an interior column of a class under unknown jitter.

    A Bayesian bound for the frames of this benchmark: positions are an affine lattice, bending of 0.05 Å RMS in waves
    of 20 Å and more, and 0.03 Å of every atom's own. Each line of an atom is seen apart from the others, all of them
    together with the joint bound's error, and shifted along x by jitter (0.1 Å RMS, correlation of 0.7 between lines).
    How much all atoms are sheared is unknown, since the probe may be oval: a constant and a slope that positions and
    jitter have in common no analysis can tell apart.
    """
    size, sampling = 512, 0.104
    build = graphene if material == "graphene" else mos2
    xy = build((53.1, 53.1), 0.0, 0.0, rotation=11.0).columns()[0]
    waves = [np.ones(len(xy)), *(xy.T / 50 - 0.5)]
    prior = [1e2, 1e2, 1e2]  # Å²: nothing is known of origin and lattice vectors
    orders = [(a, b) for a in range(6) for b in range(6) if 0 < np.hypot(a, b) <= 5]
    for a, b in orders:
        waves.append(2 * np.cos(np.pi * a * xy[:, 0] / 53) * np.cos(np.pi * b * xy[:, 1] / 53))
        prior.append(0.05**2 / len(orders))
    basis = np.array(waves).T
    positions = basis * prior @ basis.T + 0.03**2 * np.eye(len(xy))
    along_y = np.linalg.inv(np.linalg.inv(positions) + np.eye(len(xy)) / bound(material, dose, name) ** 2)
    lines = np.arange(size) * sampling
    away = lines - xy[:, 1:]
    seen = np.exp(-((away / 0.5) ** 2))  # of an atom: the square of its slope
    seen /= seen.sum(1, keepdims=True) * bound(material, dose, name) ** 2
    jitter = np.zeros((size + 1, size + 1))
    jitter[:size, :size] = np.linalg.inv(0.1**2 * 0.7 ** (np.abs(lines[:, None] - lines) / sampling))
    jitter[:size, :size] += np.diag(seen.sum(0))
    jitter[:size, size] = jitter[size, :size] = (seen * away).sum(0)
    jitter[size, size] = (seen * away**2).sum()
    both = np.column_stack([seen, (seen * away).sum(1)])
    response = along_y @ both
    of_lines = response @ np.linalg.inv(jitter - both.T @ response) @ response.T
    interior = np.all((xy > INTERIOR) & (xy < size * sampling - INTERIOR), axis=1)
    return float(np.sqrt(np.mean(np.diag(along_y + of_lines / 2)[interior])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="seed of the first frame")
    parser.add_argument("--model", action="append", default=[])
    arguments = parser.parse_args()
    paths = dict(item.split("=") for item in arguments.model)
    torch.set_num_threads(1)
    for material, doses in DOSES.items():
        ensemble = elit.load(paths.get(material, material))
        count = len(ensemble.members)
        print(f"\n{material}: {count} networks, version {ensemble.version}, 512 x 512 at 0.104 Å/px")
        minor = MINOR[material]
        columns = "".join(f" {name} Å | bound |" for name in CLASSES[material])
        known = f"| dose e/Å² | frames | recall | precision | {minor} recall, precision |"
        print(known + columns + " in 95 % ellipse | bias Å |")
        print("|---|" + "---|" * (6 + columns.count("|")))
        seeds = range(arguments.first, arguments.first + arguments.frames)
        for dose in doses:
            for degraded in (False, True):
                print(row(ensemble, material, dose, degraded, seeds), flush=True)


def row(ensemble: elit.Ensemble, material: str, dose: float, degraded: bool, seeds: range) -> str:
    """Return one line of the table: errors of interior columns, ellipses and bias of all."""
    scores, minors, inside, means = [], [], [], []
    squares: dict[str, list[NDArray[np.float64]]] = {name: [] for name in CLASSES[material]}
    for seed in seeds:
        truth = frame(material, dose, degraded=degraded, seed=seed)
        atoms = ensemble.predict(truth.counts, truth.sampling).atoms
        result = score(truth, atoms)
        scores.append([result.recall, result.precision])
        minors.append(result.of_class(MINOR[material]))
        last = (np.array(truth.counts.shape[::-1]) - 1) * truth.sampling
        found = atoms.positions[result.found]
        interior = np.all((found > INTERIOR) & (found < last - INTERIOR), axis=1)
        for name in squares:
            squares[name].append((result.errors[interior & (result.true_names == name)] ** 2).ravel())
        precision = np.linalg.inv(atoms.covariance[result.found])
        inside.append(np.einsum("ni,nij,nj->n", result.errors, precision, result.errors) < 5.991)
        means.append(result.errors.mean(0))
    recall, precise = np.mean(scores, axis=0)
    minor = np.mean(minors, axis=0)
    kind = "contamination + jitter" if degraded else "clean"
    least = bound_with_jitter if degraded else bound
    rmse = {name: float(np.sqrt(np.concatenate(of).mean())) for name, of in squares.items()}
    errors = "".join(f" {rmse[name]:.4f} | {least(material, dose, name):.4f} |" for name in rmse)
    return (
        f"| {dose:.0e} | {kind} | {recall:.4f} | {precise:.4f} | {minor[0]:.3f}, {minor[1]:.3f} |{errors} "
        f"{np.concatenate(inside).mean():.3f} | {np.abs(np.mean(means, axis=0)).max():.4f} |"
    )


if __name__ == "__main__":
    main()
