"""Edges: which columns a cut keeps so that its rim is whole, and the hydrogen on its open bonds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stem_ae.structure.material import COVALENCE

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

HYDROGEN_BOND = {"B": 1.19, "C": 1.09, "N": 1.01, "Si": 1.48}
"""Å; single bonds to hydrogen."""

_CLEAR_OF_ATOMS = 1.5
_CLEAR_OF_HYDROGEN = 1.2
"""Å. Three hydrogens in a single vacancy would be 0.57 Å apart: such sites stay bare."""


def whole_edge(chosen: BoolArray, allowed: BoolArray, pairs: IntArray) -> BoolArray:
    """Return a selection near ``chosen`` whose edge cuts no ring in two.

    Columns outside that two chosen ones are bonded to are taken in, columns that hang on by one bond are dropped, and
    of several pieces the largest is kept.

    Parameters
    ----------
    chosen, allowed : (N,) arrays of bool
        Columns in the region, and columns that may be used at all.
    pairs : (M, 2) array
        Bonds between all of them.
    """
    kept = chosen & allowed
    for _ in range(10):
        grown = kept | (allowed & (_bonds_to(kept, pairs) >= 2))
        if np.array_equal(grown, kept):
            break
        kept = grown
    while np.any(hanging := kept & (_bonds_to(kept, pairs) < 2)):
        kept = kept & ~hanging
    return _largest_piece(kept, pairs)


def _bonds_to(kept: BoolArray, pairs: IntArray) -> IntArray:
    """Return how many kept columns each column is bonded to, ``(N,)``."""
    n = len(kept)
    result: IntArray = np.bincount(pairs[:, 0], kept[pairs[:, 1]], n) + np.bincount(pairs[:, 1], kept[pairs[:, 0]], n)
    return result.astype(np.int64)


def _largest_piece(kept: BoolArray, pairs: IntArray) -> BoolArray:
    if not kept.any():
        return kept
    inner = pairs[kept[pairs].all(axis=1)]
    graph = coo_matrix((np.ones(len(inner)), inner.T), shape=(len(kept), len(kept)))
    piece = connected_components(graph, directed=False)[1]
    result: BoolArray = kept & (piece == np.bincount(piece[kept]).argmax())
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class Hydrogen:
    """Where hydrogen goes: ``positions (K, 2)`` in Å, the column each is bonded to, and the columns left bare."""

    positions: FloatArray
    hosts: IntArray
    bare: IntArray


def hydrogen(xy: FloatArray, elements: list[str], pairs: IntArray) -> Hydrogen:
    """Return the hydrogen atoms that saturate two-fold columns of a sheet.

    Each lies in the plane, opposite to the sum of its host's bonds. Hosts whose hydrogen would touch another atom, as
    inside a small vacancy, are left bare.
    """
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    degree = np.bincount(directed[:, 0], minlength=len(xy))
    wanting = np.array([degree[k] == 2 and COVALENCE.get(name, 0) == 3 for k, name in enumerate(elements)], bool)
    hosts = np.flatnonzero(wanting)
    if len(hosts) == 0:
        return Hydrogen(np.zeros((0, 2)), hosts, hosts)
    vectors = xy[directed[:, 1]] - xy[directed[:, 0]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    inwards = np.column_stack([np.bincount(directed[:, 0], vectors[:, axis], len(xy)) for axis in (0, 1)])[hosts]
    strength = np.linalg.norm(inwards, axis=1, keepdims=True)
    length = np.array([HYDROGEN_BOND[elements[host]] for host in hosts])
    places = xy[hosts] - length[:, None] * inwards / np.maximum(strength, 1e-9)
    crowded = strength[:, 0] < 0.2  # a straight chain has no side to put it on
    for place, host in enumerate(hosts):
        others = np.delete(xy, host, axis=0)
        crowded[place] |= bool(len(others)) and np.linalg.norm(others - places[place], axis=1).min() < _CLEAR_OF_ATOMS
    touching = cKDTree(places).query_pairs(_CLEAR_OF_HYDROGEN, output_type="ndarray")
    crowded[touching.ravel()] = True
    return Hydrogen(places[~crowded], hosts[~crowded], hosts[crowded])
