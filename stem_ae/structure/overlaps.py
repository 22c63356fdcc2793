"""Atoms that are too close to be true: noise is pushed apart, ghosts are removed, the rest is refused with a list."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

CLOSEST = 0.79
"""Fraction of the sum of covalent radii below which two atoms overlap: 1.20 Å for C-C (a triple bond)."""
_SIGMAS = 3.0
"""Overlaps within so many standard deviations are taken for noise."""
_LESS_LIKELY = 0.1
"""An atom this much less probable than the one it overlaps is the false one."""
_CUT = 1.0
"""Å from the image's border within which a column is seen in part only, and may be misplaced by more than its error."""


@dataclasses.dataclass
class Columns:
    """Projected columns on the way from the image to a structure: arrays over the same ``N`` columns."""

    xy: FloatArray
    covariance: FloatArray
    names: list[str]
    confidence: FloatArray
    probabilities: FloatArray
    index: NDArray[np.int64]

    def keep(self, selection: BoolArray) -> None:
        """Forget the others."""
        self.xy, self.covariance = self.xy[selection], self.covariance[selection]
        self.names = [name for name, kept in zip(self.names, selection, strict=True) if kept]
        self.confidence, self.probabilities = self.confidence[selection], self.probabilities[selection]
        self.index = self.index[selection]


def settle(
    columns: Columns, elements: list[str], limit: float, mode: Literal["resolve", "refuse", "keep"], depth: FloatArray
) -> list[str]:
    """Resolve overlapping columns in place and return one line for each that was changed.

    Parameters
    ----------
    columns : Columns
        Changed in place.
    elements : list of str
        Heaviest element of each column.
    limit : float
        No two columns are required to be farther apart than this (Å): columns at different heights may come close in
        projection.
    mode : {"resolve", "refuse", "keep"}
        Pairs whose overlap the position errors explain are pushed apart along their line, each by its share of the
        variance; of others the atom that the image's border cuts, or else the clearly less probable one, is removed.
        With "refuse" any overlap is an error.
    depth : (N,) array
        Distance of each column from the image's border in Å.

    Raises
    ------
    StemAeError
        With the list of the pairs that cannot be decided.
    """
    if mode == "keep":
        return []
    told: list[str] = []
    refused: list[str] = []
    gone = np.zeros(len(columns.xy), bool)
    for i, j in overlapping(columns.xy, elements, limit):
        if gone[i] or gone[j]:
            continue
        wanted = _closest(elements[i], elements[j], limit)
        line = columns.xy[j] - columns.xy[i]
        distance = float(np.linalg.norm(line))
        unit = line / distance if distance > 0 else np.array([1.0, 0.0])
        share = np.array([unit @ columns.covariance[k] @ unit for k in (i, j)])
        pair = (
            f"atoms {columns.index[i]} ({columns.names[i]}) and {columns.index[j]} ({columns.names[j]}) are "
            f"{distance:.2f} Å apart at x = {columns.xy[i, 0]:.1f}, y = {columns.xy[i, 1]:.1f} Å"
        )
        if mode == "refuse":
            refused.append(pair)
        elif distance > 0 and wanted - distance <= _SIGMAS * np.sqrt(share.sum()):
            step = (wanted - distance) * share / share.sum()
            columns.xy[i] -= step[0] * unit
            columns.xy[j] += step[1] * unit
            told.append(f"{pair}: within their errors, moved to {wanted:.2f} Å")
        elif min(depth[i], depth[j]) < _CUT:
            false = i if depth[i] < depth[j] else j
            gone[false] = True
            told.append(f"{pair}: atom {columns.index[false]} is cut by the image's border and was left out")
        elif abs(columns.confidence[i] - columns.confidence[j]) >= _LESS_LIKELY:
            false = i if columns.confidence[i] < columns.confidence[j] else j
            gone[false] = True
            told.append(f"{pair}: atom {columns.index[false]} is the less probable and was left out")
        else:
            refused.append(pair)
    if refused:
        shown = "; ".join(refused[:10]) + (f"; and {len(refused) - 10} more" if len(refused) > 10 else "")
        raise StemAeError(
            f"{len(refused)} pairs of atoms overlap: {shown}. Remove the false ones, raise the confidence, or choose "
            "another region."
        )
    columns.keep(~gone)
    return told


def overlapping(xy: FloatArray, elements: list[str], limit: float) -> list[tuple[int, int]]:
    """Return the pairs that are closer than their elements allow, closest first."""
    if len(xy) < 2:
        return []
    largest = max(covalent_radii[atomic_numbers[name]] for name in set(elements))
    pairs = cKDTree(xy).query_pairs(min(2 * CLOSEST * largest, limit), output_type="ndarray")
    distances = np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1)
    return [
        (int(i), int(j))
        for distance, (i, j) in sorted(zip(distances.tolist(), pairs.tolist(), strict=True))
        if distance < _closest(elements[i], elements[j], limit) - 1e-9
    ]


def _closest(first: str, second: str, limit: float) -> float:
    radii = covalent_radii[[atomic_numbers[first], atomic_numbers[second]]]
    return float(min(CLOSEST * radii.sum(), limit))
