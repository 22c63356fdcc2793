"""What a structure is like in numbers: bonds, rings, defects, and how far atoms are from where the image has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ase
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from stem_ae.structure import bond_lengths, defects, rings

FloatArray = NDArray[np.float64]


def describe(atoms: ase.Atoms) -> dict[str, Any]:
    """Return bonds (by elements) and rings (by size) with their numbers and mean, and the defects; Å and degrees."""
    found = rings(atoms)
    return {
        "bonds": {name: _spread(lengths) for name, lengths in bond_lengths(atoms).items()},
        "rings": {
            str(size): {
                "count": sum(len(ring) == size for ring in found),
                "bond": float(np.mean([ring.bond for ring in found if len(ring) == size])),
                "angle": float(np.mean([ring.angle for ring in found if len(ring) == size])),
            }
            for size in sorted({len(ring) for ring in found})
        },
        "defects": defects(atoms, found),
    }


def describe_frames(frames: Iterable[ase.Atoms]) -> dict[str, Any]:
    """Return the same averaged over the frames of a trajectory: bonds by elements, and by ring size."""
    lengths: dict[str, list[FloatArray]] = {}
    in_rings: dict[int, list[float]] = {}
    count = 0
    for count, atoms in enumerate(frames, start=1):  # noqa: B007  (how many there were)
        for name, values in bond_lengths(atoms).items():
            lengths.setdefault(name, []).append(values)
        for ring in rings(atoms):
            in_rings.setdefault(len(ring), []).append(ring.bond)
    return {
        "bonds": {name: _spread(np.concatenate(values)) for name, values in sorted(lengths.items())},
        "rings": {
            str(size): {
                "per_frame": len(values) / count, "bond": float(np.mean(values)), "std": float(np.std(values)),
            }
            for size, values in sorted(in_rings.items())
        },
    }


def _spread(values: FloatArray) -> dict[str, float]:
    return {
        "count": len(values), "mean": float(values.mean()), "std": float(values.std()), "min": float(values.min()),
        "max": float(values.max()),
    }  # fmt: skip


def displacement(atoms: ase.Atoms) -> FloatArray:
    """Return how far each atom moved in x and y from where the image has it, ``(N, 2)`` in Å; NaN for added atoms.

    Patches are free to turn and drift as a whole, which says nothing about the image, so that rotation about z and
    translation are fitted away (Kabsch); periodic cells keep their rotation.
    """
    result = np.full((len(atoms), 2), np.nan)
    if not atoms.has("image_position"):
        return result
    seen = atoms.arrays["image_atom"] >= 0
    if not seen.any():
        return result
    there, here = atoms.arrays["image_position"][seen], atoms.positions[seen]
    if atoms.pbc.any():
        fractional = np.linalg.solve(atoms.cell.array.T, (here - there).T).T
        here = there + (fractional - np.round(fractional) * atoms.pbc) @ atoms.cell.array
    there, here = (points * [1, 1, 0] for points in (there - there.mean(axis=0), here - here.mean(axis=0)))
    if not atoms.pbc.any():
        turn, _ = Rotation.align_vectors(there, here)
        here = turn.apply(here)
    result[seen] = (here - there)[:, :2]
    return result


def describe_displacement(atoms: ase.Atoms) -> dict[str, Any]:
    """Return the mean and largest displacement in pm, and the share of atoms within their 95 % ellipse in the image."""
    moved = displacement(atoms)
    known = np.isfinite(moved).all(axis=1)
    if not known.any():
        return {}
    lengths = np.linalg.norm(moved[known], axis=1)
    xx, xy, yy = atoms.arrays["covariance"][known].T
    determinant = xx * yy - xy**2
    result = {"mean_pm": 100 * float(lengths.mean()), "max_pm": 100 * float(lengths.max())}
    if np.all(determinant > 0):
        dx, dy = moved[known].T
        squared = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant
        result["within_95"] = float(np.mean(squared < 5.991))  # chi-squared, two degrees of freedom
    return result
