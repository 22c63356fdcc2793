"""Found atoms as CSV and extended XYZ: written to the last bit, read by the names of the columns."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.files import check_xyz, read_text

FloatArray = NDArray[np.float64]

_OTHERS = ("var_x", "cov_xy", "var_y", "intensity")
_OUTSIDE = 0.1
"""Of the image's sides, that an atom may lie outside: dynamics and people move atoms a little."""
_ROUNDED = 1e-7
"""Å²: programs that write atoms anew round them."""
_SUM = 0.01
"""What the probabilities of an atom may be beyond 0 and, together, 1, after such a rounding."""


# --- writing ----------------------------------------------------------------------------------------------------------


def to_csv(atoms: Atoms2D) -> str:
    """Return a table with a first line of JSON for what is common to all atoms."""
    out = io.StringIO()
    out.write("# " + json.dumps({"stem_ae": "atoms", **_header(atoms)}) + "\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["species", *_places(atoms.sampling), *_OTHERS, *(f"p_{name}" for name in atoms.species)])
    for symbol, row in zip(atoms.symbols, _table(atoms), strict=True):
        writer.writerow([symbol, *(repr(float(value)) for value in row)])
    return out.getvalue()


def to_extxyz(atoms: Atoms2D) -> str:
    """Return extended XYZ; z is zero and y keeps pointing down: :mod:`stem_ae.structure` makes structures of it."""
    header = json.dumps(_header(atoms)).replace('"', r"\"")
    properties = (
        "species:S:1:pos:R:3:covariance:R:3:intensity:R:1:"
        f"probabilities:R:{len(atoms.species)}:label_name:S:1"
    )
    out = [str(len(atoms)), f'Properties={properties} pbc="F F F" stem_ae="{header}"']
    for name, row in zip(atoms.symbols, _table(atoms), strict=True):
        numbers = [*row[:2], 0.0, *row[2:]]
        out.append(" ".join([_element(name, atoms.species), *(repr(float(value)) for value in numbers), name]))
    return "\n".join(out) + "\n"


def _places(sampling: object) -> tuple[str, str]:
    """Return the names of the columns with the positions, which say their unit."""
    return ("x_px", "y_px") if sampling is None else ("x_angstrom", "y_angstrom")


def _header(atoms: Atoms2D) -> dict[str, object]:
    sampling = None if atoms.sampling is None else list(atoms.sampling)
    return {"species": list(atoms.species), "shape": list(atoms.shape), "sampling": sampling}


def _table(atoms: Atoms2D) -> FloatArray:
    c = atoms.covariance
    columns = [atoms.positions, c[:, 0, 0], c[:, 0, 1], c[:, 1, 1], atoms.intensity, atoms.probabilities]
    return np.column_stack(columns) if len(atoms) else np.zeros((0, 2 + len(_OTHERS) + len(atoms.species)))


def _element(name: str, species: Sequence[str]) -> str:
    """Return the chemical symbol in a class name (``S2`` is a column of two S), ``X`` if there is none.

    ``I1``, ``I2``, ... are not iodine but groups of equal brightness; see :func:`stem_ae.classify.by_intensity`.
    """
    from ase.data import atomic_numbers

    symbol = name.rstrip("0123456789")
    groups = list(species) == [f"I{k + 1}" for k in range(len(species))]
    return symbol if symbol in atomic_numbers and not groups else "X"


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: pathlib.Path) -> Atoms2D:
    """Return the atoms of a file; see :meth:`stem_ae.atoms.Atoms2D.read`.

    Raises
    ------
    StemAeError
        If the file does not hold them.
    """
    text = read_text(path)
    try:
        return _from_csv(text) if path.suffix.lower() == ".csv" else _from_extxyz(path, text)
    except StemAeError as error:
        raise StemAeError(f"{path.name} does not hold atoms that stem_ae wrote: {error}") from error
    except Exception as error:  # ASE's reader raises whatever it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise StemAeError(f"{path.name} does not hold atoms that stem_ae wrote ({reason}).") from error


def _from_csv(text: str) -> Atoms2D:
    lines = text.splitlines()
    if len(lines) < 2:
        raise StemAeError("its first two lines, of JSON and of the columns' names, are missing.")
    mark = max(",;\t", key=lines[1].count)
    header = json.loads(_unquoted(lines[0], mark).strip().removeprefix("#"))
    names = [name.strip() for name in next(csv.reader(lines[1:2], delimiter=mark))]
    records: list[list[str]] = []
    places: list[int] = []
    for number, line in enumerate(lines[2:], start=3):
        record = [cell.strip() for cell in next(csv.reader([line], delimiter=mark), [])]
        if not any(record):  # such as an empty last line
            continue
        if len(record) < len(names) or any(record[len(names) :]):
            raise StemAeError(
                f"line {number} has {len(record)} columns instead of {len(names)}: part them with ; if numbers have "
                "commas."
            )
        records.append(record)
        places.append(number)

    def column(name: str) -> list[str]:
        if names.count(name) != 1:
            raise StemAeError(f"it has {'several columns' if name in names else 'no column'} {name}.")
        return [record[names.index(name)] for record in records]

    def numbers(name: str) -> FloatArray:
        return np.array([_float(cell, name, place, mark) for cell, place in zip(column(name), places, strict=True)])

    return _atoms(header, column("species"), numbers, lambda k: f"line {places[k]}")


def _unquoted(line: str, mark: str) -> str:
    """Return the first line as it was, before a table program cut it into cells and quoted them."""
    if not line.startswith('"'):
        return line.rstrip(mark)
    return mark.join(next(csv.reader([line], delimiter=mark))).rstrip(mark)


def _float(cell: str, name: str, line: int, mark: str) -> float:
    try:
        return float(cell if mark == "," else cell.replace(",", "."))  # where ; parts cells, numbers have commas
    except ValueError:
        raise StemAeError(f"line {line}: {name} is {cell[:40]!r}, which is not a number.") from None


def _from_extxyz(path: pathlib.Path, text: str) -> Atoms2D:
    import ase.io

    if check_xyz(text) != 1:
        raise StemAeError("it holds several frames: keep one of them.")
    frame: Any = ase.io.read(path, format="extxyz", index=0)
    header = frame.info["stem_ae"]
    header = json.loads(header) if isinstance(header, str) else header
    arrays = frame.arrays
    covariance = np.asarray(arrays["covariance"], float).reshape(-1, 3)
    x, y = _places(header["sampling"])
    columns = {
        x: frame.positions[:, 0], y: frame.positions[:, 1], "var_x": covariance[:, 0],
        "cov_xy": covariance[:, 1], "var_y": covariance[:, 2], "intensity": arrays["intensity"],
    }  # fmt: skip
    probabilities = np.asarray(arrays["probabilities"], float).reshape(-1, len(header["species"]))
    columns |= {f"p_{name}": row for name, row in zip(header["species"], probabilities.T, strict=True)}
    labels = [str(name) for name in arrays["label_name"]]
    return _atoms(header, labels, lambda name: np.asarray(columns[name], float), lambda k: f"atom {k}")


def _atoms(
    header: Any, labels: Sequence[str], numbers: Callable[[str], FloatArray], place: Callable[[int], str]
) -> Atoms2D:
    """Return atoms from their columns.

    Parameters
    ----------
    header : mapping
        Species, shape and sampling.
    labels : sequence of str
        The class of each atom.
    numbers : callable
        Returns the column of a name.
    place : callable
        Returns where an atom stands in the file, for sentences.
    """
    species = tuple(str(name) for name in header["species"])
    for k, name in enumerate(labels):
        if name not in species:
            raise StemAeError(f"{place(k)}: the class {name[:40]!r} is none of {', '.join(species)}.")
    shape, sampling = header["shape"], header["sampling"]
    x, y, var_x, cov_xy, var_y, intensity = (numbers(name) for name in (*_places(sampling), *_OTHERS))
    probabilities = np.array([numbers(f"p_{name}") for name in species]).T.reshape(-1, len(species))
    somewhere = np.isfinite(x) & np.isfinite(y)
    if not somewhere.all():
        raise StemAeError(f"{place(int(np.argmin(somewhere)))}: its position is not finite.")
    atoms = Atoms2D(
        np.column_stack([x, y]), np.stack([var_x, cov_xy, cov_xy, var_y], axis=1).reshape(-1, 2, 2),
        np.array([species.index(name) for name in labels], dtype=np.int64), species, probabilities, intensity,
        (int(shape[0]), int(shape[1])), None if sampling is None else (float(sampling[0]), float(sampling[1])),
    )  # fmt: skip
    refuse_impossible(atoms, place)
    side = np.array([atoms.shape[1] * atoms.step[1], atoms.shape[0] * atoms.step[0]])
    inside = (np.abs(atoms.positions / side - 0.5) <= 0.5 + _OUTSIDE).all(axis=1)
    if not inside.all():
        raise StemAeError(f"{place(int(np.argmin(inside)))}: its position is outside the image.")
    return atoms


def refuse_impossible(atoms: Atoms2D, place: Callable[[int], str] = lambda k: f"Atom {k}") -> None:
    """Raise StemAeError if the numbers of an atom cannot be: NaN, a negative variance, more than certainty.

    Parameters
    ----------
    atoms : Atoms2D
        What was found.
    place : callable, optional
        Returns what to call an atom, by its index.
    """
    if min(atoms.shape) < 1:
        raise StemAeError(f"the image's shape {atoms.shape} is not possible.")
    c, p = atoms.covariance, atoms.probabilities
    room = np.sqrt(np.clip(c[:, 0, 0] * c[:, 1, 1], 0, None)) + _ROUNDED
    with np.errstate(invalid="ignore"):
        checks = {
            "its covariance is not finite": np.isfinite(c).all(axis=(1, 2)),
            "its covariance is not possible": (c[:, 0, 0] >= 0) & (c[:, 1, 1] >= 0)
            & (np.abs(c[:, 0, 1]) <= room) & (np.abs(c[:, 0, 1] - c[:, 1, 0]) <= _ROUNDED),
            "its intensity is not finite": np.isfinite(atoms.intensity),
            "its probabilities are not possible": (p >= -_SUM).all(axis=1) & (p.sum(axis=1) > 0)
            & (p.sum(axis=1) <= 1 + _SUM),
        }  # fmt: skip
    for complaint, fine in checks.items():
        if not fine.all():
            raise StemAeError(f"{place(int(np.argmin(fine)))}: {complaint}.")
