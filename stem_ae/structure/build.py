"""From atoms in an image to a structure that physics can work with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import ase
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from stem_ae import checks
from stem_ae.atom_tables import refuse_impossible
from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.structure import cells, edges
from stem_ae.structure.lattice import REACH, Calibration, bonds_2d, calibrate
from stem_ae.structure.material import Material, material_for
from stem_ae.structure.overlaps import Columns, settle
from stem_ae.structure.region import select

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

CalibrationMode = Literal["scale", "affine"]

_MOST_VACUUM = 1000.0
"""Å."""

_CLOSEST = 0.85
"""Columns are never required to be farther apart than this part of the material's spacing."""

_MOST_CORRECTION = 0.2
"""Largest correction of an image's scale, as a fraction: more is a mistake in the sampling or the material."""

_UNITS = {"nm": 10.0, "µm": 1e4, "pm": 0.01, "Bohr radii": 0.529177, "m": 1e10}
"""Å in units that positions are sometimes given in."""

_EXTENT_ALONG_BEAM = 20.0
"""Å of a periodic sheet's cell along the beam, when no vacuum is asked for."""


def build(
    atoms: Atoms2D,
    region: Any = None,
    *,
    material: Material | None = None,
    terminate: Literal["H"] | None = "H",
    vacuum: float = 10.0,
    cell: Any = "patch",
    calibration: CalibrationMode | FloatArray | None = "scale",
    confidence: float = 0.5,
    overlaps: Literal["resolve", "refuse", "keep"] = "resolve",
    provenance: Mapping[str, str] | None = None,
) -> ase.Atoms:
    """Build a structure from the atoms of an image.

    The image's y points down and the beam into the screen; the structure's y points up and its z towards the electron
    source: a rotation by 180° about x, so that handedness survives.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    region : optional
        Part of the image, in its own Å: see :func:`stem_ae.structure.select`. The whole image by default.
    material : Material, optional
        What the columns stand for; by default the known one that has these classes.
    terminate : "H" or None
        Saturate two-fold edge atoms of a sheet with hydrogen.
    vacuum : float
        Å on every side of a patch, and above and below a periodic sheet.
    cell : "patch", "periodic", or a cell
        A patch in vacuum; the largest supercell of the region's own lattice; or a given Bravais cell in Å (3 lengths,
        6 lengths and angles, or 3 vectors), periodic, with the atoms in its middle.
    calibration : "scale", "affine", (2, 2) array or None
        Correct the image's scale, or its linear distortion too, against the material's known spacing, as measured over
        the whole image. An array is a correction known already.
    confidence : float
        Atoms whose class is less probable are left out.
    overlaps : "resolve", "refuse" or "keep"
        What happens to atoms that are too close: see :func:`stem_ae.structure.overlaps.settle`.
    provenance : mapping, optional
        Where the atoms come from (image, model, version), carried in ``info["stem_ae"]["provenance"]`` together with
        the digest of the atoms.

    Returns
    -------
    ase.Atoms
        With the per-atom arrays ``covariance`` (xx, xy, yy in Å², structure's axes), ``probability`` (of the class),
        ``image_atom`` (index into ``atoms``, -1 for hydrogen), ``image_position`` (where the image has it, in the
        structure's frame, Å) and ``perimeter`` (edge of the cut). ``info["stem_ae"]`` is the report.

    Raises
    ------
    StemAeError
        If the region is empty, atoms overlap, the cell is impossible.
    """
    refuse_impossible(atoms)
    checks.number(vacuum, "The vacuum", 0, _MOST_VACUUM, "Å")
    checks.number(confidence, "The confidence", 0, 1)
    if terminate not in ("H", None):
        raise StemAeError(f"Edges cannot be terminated by {str(terminate)[:20]!r}: choose 'H', or None.")
    if overlaps not in ("resolve", "refuse", "keep"):
        raise StemAeError(f"The way with overlaps {str(overlaps)[:20]!r} is not known: choose resolve, refuse or keep.")
    _ = atoms.known_sampling  # a cell needs real lengths
    material = material or material_for(atoms.species)
    notes: list[str] = []
    inside = select(atoms, region)
    sure = atoms.confidence >= confidence
    if not (inside & sure).any():
        raise StemAeError(
            f"No atom in this region is surer than {confidence:g}: lower the confidence or choose another region."
        )
    correction = _correction(atoms[sure], material, calibration, notes)
    columns = _columns(atoms, correction)
    pairs = bonds_2d(columns.xy, REACH * material.spacing)
    degree_in_image = np.bincount(pairs.ravel(), minlength=len(columns.xy))
    if cell == "patch":
        chosen = edges.whole_edge(inside, sure, pairs)
        if not chosen.any():
            raise StemAeError("No ring of atoms lies in this region: draw it larger.")
    else:
        chosen = inside & sure
    holes = int((inside & ~sure & (np.bincount(pairs.ravel(), chosen[pairs[:, ::-1]].ravel(), len(inside)) >= 3)).sum())
    if holes:
        notes.append(f"{holes} unsure atoms inside were left out: the structure has vacancies that may not be real")
    columns.keep(chosen)
    elements = [_heaviest(material.atoms_of(name)) for name in columns.names]
    notes += settle(columns, elements, _CLOSEST * material.spacing, overlaps, _depth(atoms, columns.index))
    if cell == "patch":
        # Where a false atom was left out, others may hang on by one bond now.
        every = np.ones(len(columns.xy), bool)
        columns.keep(edges.whole_edge(every, every, bonds_2d(columns.xy, REACH * material.spacing)))
    sheet = _Sheet(columns, [material.atoms_of(name) for name in columns.names])
    if cell == "patch":
        structure = _patch(sheet, terminate, vacuum, REACH * material.spacing, degree_in_image, atoms, notes)
    elif cell == "periodic":
        structure = _periodic(sheet, vacuum, material)
    else:
        structure = _in_cell(sheet, cells.given_cell(cell))
    shift = structure.positions[0, :2] - columns.xy[0] * [1, -1]
    structure.info["stem_ae"] = {
        "material": material.name,
        "calibration": {
            "matrix": correction.matrix.ravel().tolist(),
            "scale": correction.scale,
            "scale_error": correction.scale_error,
            "shear": correction.shear,
        },
        "shift": shift.tolist(),
        "classes": list(atoms.species),
        "columns": len(columns.xy),
        "notes": notes,
        "frame": {"shape": list(atoms.shape), "sampling": list(atoms.known_sampling)},
        "provenance": {**(provenance or {}), "atoms_sha256": _digest(atoms)},
    }
    return structure


def variants(atoms: Atoms2D, count: int, region: Any = None, *, seed: int = 0, **options: Any) -> list[ase.Atoms]:
    """Return ``count`` structures that the same image allows, drawn from its uncertainties.

    Positions are drawn from each atom's covariance and classes from its probabilities; the choice of atoms and the
    calibration stay those of :func:`build` with the same options.

    Raises
    ------
    StemAeError
        As :func:`build`.
    """
    count = checks.whole(count, "The number of variants", 0, 10_000)
    seed = checks.whole(seed, "The seed", 0, checks.MOST_SEED)
    nominal = build(atoms, region, **options)
    chosen = np.zeros(len(atoms), bool)
    chosen[nominal.arrays["image_atom"][nominal.arrays["image_atom"] >= 0]] = True
    matrix = np.array(nominal.info["stem_ae"]["calibration"]["matrix"]).reshape(2, 2)
    options = {**options, "calibration": matrix, "confidence": 0.0}
    rng = np.random.default_rng(seed)
    roots = _roots(atoms.covariance)
    threshold = np.cumsum(atoms.probabilities, axis=1)
    threshold /= threshold[:, -1:]
    result = []
    for _ in range(count):
        moved = atoms.positions + np.einsum("nij,nj->ni", roots, rng.standard_normal((len(atoms), 2)))
        drawn = (rng.random((len(atoms), 1)) > threshold).sum(axis=1)
        sample = dataclasses.replace(
            atoms,
            positions=np.where(chosen[:, None], moved, atoms.positions),
            labels=np.where(chosen, drawn, atoms.labels),
        )
        result.append(build(sample, chosen, **options))
    return result


def _roots(covariance: FloatArray) -> FloatArray:
    """Return matrices whose products with their transposes are these, ``(N, 2, 2)``."""
    values, axes = np.linalg.eigh(covariance)
    result: FloatArray = axes * np.sqrt(np.clip(values, 0.0, None))[:, None, :]  # in files they are rounded
    return result


def to_image(structure: ase.Atoms, positions: FloatArray | None = None) -> FloatArray:
    """Return where a structure's atoms are in the image it was built from, ``(N, 2)`` in the image's Å, y down.

    Parameters
    ----------
    structure : ase.Atoms
        As :func:`build` made it, or what became of it.
    positions : (N, 3) array, optional
        Where to take its atoms to be, Å in its own axes, such as ``arrays["image_position"]``.

    Raises
    ------
    StemAeError
        If it was not built from an image.
    """
    matrix, shift = _from_image(structure)
    xyz = structure.positions if positions is None else positions
    result: FloatArray = (xyz[:, :2] - shift) * [1, -1] @ np.linalg.inv(matrix).T
    return result


def from_image(structure: ase.Atoms, xy: FloatArray) -> FloatArray:
    """Return where points of the image, ``(N, 2)`` in its Å, are in the axes of a structure that was built from it.

    Raises
    ------
    StemAeError
        If it was not built from an image.
    """
    matrix, shift = _from_image(structure)
    result: FloatArray = np.asarray(xy, float) @ matrix.T * [1, -1] + shift
    return result


def _from_image(structure: ase.Atoms) -> tuple[FloatArray, FloatArray]:
    report = structure.info.get("stem_ae")
    if not report:
        raise StemAeError("This structure was not built from an image.")
    return np.array(report["calibration"]["matrix"]).reshape(2, 2), np.array(report["shift"])


def _digest(atoms: Atoms2D) -> str:
    """Return the SHA-256 of what was found in the image."""
    arrays = (atoms.positions, atoms.covariance, atoms.labels, atoms.probabilities, atoms.intensity)
    words = f"{atoms.species} {atoms.shape} {atoms.known_sampling}".encode()
    return hashlib.sha256(words + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _correction(
    atoms: Atoms2D, material: Material, wanted: CalibrationMode | FloatArray | None, notes: list[str]
) -> Calibration:
    if wanted is None:
        return Calibration.none()
    if not isinstance(wanted, str):
        return Calibration.given(np.asarray(wanted, float))
    if wanted not in ("scale", "affine"):
        raise StemAeError(f"The calibration {wanted!r} is not known: choose scale, affine or none.")
    try:
        found = calibrate(atoms.positions, atoms.covariance, material.spacing, wanted)
    except StemAeError as error:
        notes.append(f"not calibrated: {error}")
        return Calibration.none()
    _refuse_other_unit(found, material)
    return found


def _refuse_other_unit(correction: Calibration, material: Material) -> None:
    """Raise StemAeError if the image would have to be stretched by more than any calibration is wrong."""
    stretches = np.linalg.svd(correction.matrix, compute_uv=False)
    if np.all(np.abs(stretches - 1) <= _MOST_CORRECTION):
        return
    unit = next((name for name, size in _UNITS.items() if abs(correction.scale / size - 1) <= _MOST_CORRECTION), "")
    advice = f"are they in {unit} instead of Å?" if unit else "is the sampling wrong, or is this another material?"
    raise StemAeError(
        f"The positions would have to be multiplied by {correction.scale:.4g} to have the spacing of {material.name}, "
        f"{material.spacing:g} Å: {advice}"
    )


def _columns(atoms: Atoms2D, correction: Calibration) -> Columns:
    a = correction.matrix
    return Columns(
        atoms.positions @ a.T, a @ atoms.covariance @ a.T, atoms.symbols, atoms.confidence, atoms.probabilities,
        np.arange(len(atoms)),
    )


def _heaviest(column: tuple[tuple[str, float], ...]) -> str:
    return max((element for element, _ in column), key=lambda element: atomic_numbers[element])


@dataclasses.dataclass(frozen=True, eq=False)
class _Sheet:
    """Columns and the atoms each stands for."""

    columns: Columns
    contents: list[tuple[tuple[str, float], ...]]

    def structure(self, perimeter: BoolArray) -> ase.Atoms:
        """Return all atoms, axes turned to the structure's, without a cell."""
        rows = [(k, element, height) for k, column in enumerate(self.contents) for element, height in column]
        column = np.array([k for k, _, _ in rows], dtype=np.int64)
        positions = _turned(self.columns.xy[column], np.array([height for _, _, height in rows]))
        structure = ase.Atoms([element for _, element, _ in rows], positions)
        c = self.columns.covariance[column]
        # Turning y round turns the sign of the correlation between x and y.
        structure.set_array("covariance", np.column_stack([c[:, 0, 0], -c[:, 0, 1], c[:, 1, 1]]))
        structure.set_array("probability", self.columns.confidence[column])
        structure.set_array("image_atom", self.columns.index[column])
        structure.set_array("perimeter", perimeter[column])
        return structure


def _turned(xy: FloatArray, z: FloatArray) -> FloatArray:
    return np.column_stack([xy[:, 0], -xy[:, 1], z])


def _patch(
    sheet: _Sheet, terminate: str | None, vacuum: float, reach: float, degree_in_image: IntArray, image: Atoms2D,
    notes: list[str],
) -> ase.Atoms:
    columns = sheet.columns
    pairs = bonds_2d(columns.xy, reach)
    degree = np.bincount(pairs.ravel(), minlength=len(columns.xy))
    cut = degree < degree_in_image[columns.index]
    cut |= (degree < 3) & (_depth(image, columns.index) < reach)
    elements = [_heaviest(content) for content in sheet.contents]
    structure = sheet.structure(np.zeros(len(columns.xy), bool))
    if terminate == "H":
        added = edges.hydrogen(columns.xy, elements, pairs)
        cut[added.hosts] = True
        structure += _hydrogen_atoms(added)
        if len(added.bare):
            notes.append(f"{len(added.bare)} two-fold atoms were left bare: hydrogen there would touch other atoms")
    structure.arrays["perimeter"][: len(structure)] = _by_atom(cut, sheet, len(structure))
    structure.center(vacuum=vacuum)
    structure.set_array("image_position", structure.positions.copy())
    return structure


def _by_atom(of_column: BoolArray, sheet: _Sheet, total: int) -> BoolArray:
    each = np.repeat(of_column, [len(content) for content in sheet.contents])
    return np.concatenate([each, np.zeros(total - len(each), bool)])


def _hydrogen_atoms(added: edges.Hydrogen) -> ase.Atoms:
    atoms = ase.Atoms(["H"] * len(added.hosts), _turned(added.positions, np.zeros(len(added.hosts))))
    atoms.set_array("covariance", np.zeros((len(atoms), 3)))
    atoms.set_array("probability", np.ones(len(atoms)))
    atoms.set_array("image_atom", np.full(len(atoms), -1))
    atoms.set_array("perimeter", np.zeros(len(atoms), bool))
    return atoms


def _depth(image: Atoms2D, index: IntArray) -> FloatArray:
    """Return how far atoms are from the image's border, in Å."""
    far = np.array([(image.shape[1] - 1) * image.known_sampling[1], (image.shape[0] - 1) * image.known_sampling[0]])
    positions = image.positions[index]
    depth: FloatArray = np.minimum(positions, far - positions).min(axis=1)
    return depth


def _periodic(sheet: _Sheet, vacuum: float, material: Material) -> ase.Atoms:
    columns = sheet.columns
    elements = [_heaviest(content) for content in sheet.contents]
    found = cells.commensurate(columns.xy, columns.names, elements, _CLOSEST * material.spacing)
    columns.keep(found.members)
    kept = _Sheet(columns, [c for c, m in zip(sheet.contents, found.members, strict=True) if m])
    structure = kept.structure(np.zeros(len(columns.xy), bool))
    # Turned axes reverse the order of the two vectors, and the cell has to stay right-handed.
    first, second = (np.array([v[0], -v[1], 0.0]) for v in found.vectors)
    height = material.period or float(np.ptp(structure.positions[:, 2])) + (2 * vacuum or _EXTENT_ALONG_BEAM)
    structure.set_cell(np.array([second, first, [0.0, 0.0, height]]))
    origin = np.array([found.origin[0], -found.origin[1], 0.0])
    middle = 0.0 if material.period else height / 2 - structure.positions[:, 2].mean()
    structure.positions += np.array([0.0, 0.0, middle]) - origin
    structure.set_pbc([True, True, bool(material.period)])
    structure.set_array("image_position", structure.positions.copy())
    return structure


def _in_cell(sheet: _Sheet, vectors: FloatArray) -> ase.Atoms:
    structure = sheet.structure(np.zeros(len(sheet.columns.xy), bool))
    structure.set_cell(vectors)
    structure.set_pbc(True)
    low, high = structure.positions.min(axis=0), structure.positions.max(axis=0)
    structure.positions += vectors.sum(axis=0) / 2 - (low + high) / 2
    _refuse_overlap_across(structure)
    structure.set_array("image_position", structure.positions.copy())
    return structure


def _refuse_overlap_across(structure: ase.Atoms) -> None:
    from ase.neighborlist import natural_cutoffs, neighbor_list

    first, second, distance = neighbor_list("ijd", structure, natural_cutoffs(structure, mult=0.79))
    if len(first):
        i, j, d = first[0], second[0], distance[0]
        raise StemAeError(
            f"{len(first) // 2} pairs of atoms overlap across the given cell's border (atoms {i} and {j}: {d:.2f} Å): "
            "give a cell that the region fits into."
        )
