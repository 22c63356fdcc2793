"""Structures in files."""

from __future__ import annotations

import io
import itertools
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence

import ase
import ase.io
from ase.io import jsonio

from stem_ae.errors import StemAeError
from stem_ae.files import check_xyz, existing_file, read_text, whole
from stem_ae.occupancy import occupancy
from stem_ae.structure.possible import refuse_impossible

_MOST_STRUCTURES = 10_000
_NEVER = {"bundletrajectory", "db", "mysql", "postgresql"}
"""Formats of ASE's that may hold pickles, or are no files."""
_PACKED = (".gz", ".bz2", ".xz")


def write(atoms: ase.Atoms, path: str | pathlib.Path) -> pathlib.Path:
    """Write a structure in the format of the suffix.

    ``.json`` keeps everything (arrays, constraints, report); ``.xyz`` and ``.extxyz`` keep the per-atom arrays; others
    (``.cif``, ``POSCAR``, ...) what the format knows.

    Raises
    ------
    StemAeError
        If the format is not known or the file cannot be written.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise StemAeError(f"{path} is a folder: give a file.")
    try:
        with whole(path) as part:  # of the same name, by which ASE knows a POSCAR
            if path.suffix == ".json":
                part.write_text(jsonio.encode(atoms.copy()), encoding="utf-8")
            elif path.suffix in (".xyz", ".extxyz"):
                ase.io.write(part, atoms, format="extxyz")
            else:
                ase.io.write(part, atoms)
    except OSError as error:
        raise StemAeError(f"Cannot write {path}: {error.strerror or error}.") from error
    except StemAeError:
        raise
    except Exception as error:  # ASE's writers raise whatever they like
        raise StemAeError(f"Cannot write a structure as {path.name!r}: use .json, .extxyz, .cif or POSCAR.") from error
    return path


def read(path: str | pathlib.Path, index: str | int | None = None, *, partial: bool = False) -> ase.Atoms:
    """Read a structure in any format that ASE reads.

    Parameters
    ----------
    path : path
        The file.
    index : str or int, optional
        Which of several structures in the file: the name of a CIF's block, or its number, from 0 or, backwards, -1.
    partial : bool
        Whether sites may be partly occupied; see :func:`stem_ae.occupancy.occupancy`.

    Raises
    ------
    StemAeError
        If it cannot be read, holds several structures and none is chosen, or what it holds cannot be: see
        :func:`stem_ae.structure.possible.refuse_impossible`.
    """
    path = existing_file(path)
    if path.suffix.lower() in _PACKED:
        raise StemAeError(f"{path.name} is packed: unpack it first.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what ASE's readers make of what they do not know
            structures = _read_all(path)
    except StemAeError as error:
        raise StemAeError(f"{path.name} does not hold a structure that can be read: {error}") from error
    except OSError as error:
        raise StemAeError(f"Cannot read {path}: {error.strerror or _first_line(error)}.") from error
    except Exception as error:  # ASE's readers raise whatever they like
        raise StemAeError(
            f"{path.name} does not hold a structure that can be read ({_first_line(error)})."
        ) from error
    atoms = _chosen(structures, index, path.name)
    _check_report(atoms, path.name)
    refuse_impossible(atoms, path.name)
    found = occupancy(atoms)
    if partial:
        return atoms
    if found.partial:
        raise StemAeError(
            f"{path.name} has sites that are only partly occupied ({found.partial_sites}): make a structure in which "
            "each atom is there or not."
        )
    whole = found.atoms
    whole.info.pop("occupancy", None)
    return whole


def _check_report(atoms: ase.Atoms, name: str) -> None:
    """Raise StemAeError if these are an image's atoms; drop a report that :func:`stem_ae.structure.build` did not make.

    Other programs may write whatever they like under that name.
    """
    if {"label_name", "covariance", "probabilities"} <= atoms.arrays.keys():
        raise StemAeError(f"{name} holds atoms found in an image, not a structure: make one with 'stem-ae build'.")
    report = atoms.info.get("stem_ae", {})
    parts = ("calibration", "provenance", "frame")
    if not isinstance(report, dict) or not all(isinstance(report.get(part, {}), dict) for part in parts):
        del atoms.info["stem_ae"]


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = "".join(c for c in (lines or [""])[0] if c.isprintable())[:150]
    return text or type(error).__name__


# --- all structures of a file -----------------------------------------------------------------------------------------

Named = tuple[str, ase.Atoms]


def _read_all(path: pathlib.Path) -> list[Named]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _from_json(path)
    if suffix in (".xyz", ".extxyz"):
        check_xyz(read_text(path))
        return _from_ase(path, "extxyz")
    if suffix == ".cif":
        return _from_cif(path)
    kind = ase.io.formats.filetype(str(path))
    if kind in _NEVER:
        raise StemAeError(f"files of the kind {kind} are not read.")
    if kind in _COUNTS:
        _COUNTS[kind](read_text(path).splitlines())
    return _from_cif(path) if kind == "cif" else _from_ase(path, kind)


def _from_json(path: pathlib.Path) -> list[Named]:
    text = read_text(path)
    content = jsonio.decode(text)
    if isinstance(content, ase.Atoms):
        return [("", content)]
    if isinstance(content, dict) and "ids" in content:  # a data base of ASE's, which is what ase.io.write makes
        return _from_ase(path, "json")
    raise StemAeError("it is JSON of something else.")


def _from_cif(path: pathlib.Path) -> list[Named]:
    from ase.io.cif import parse_cif

    text = read_text(path, errors="replace")  # old ones have names of authors in Latin-1
    blocks = itertools.islice(parse_cif(io.StringIO(text)), _MOST_STRUCTURES)
    return [
        (block.name, block.get_atoms(store_tags=False, fractional_occupancies=True))
        for block in blocks if block.has_structure()
    ]  # fmt: skip


def _from_ase(path: pathlib.Path, kind: str) -> list[Named]:
    frames = itertools.islice(
        ase.io.iread(str(path), index=":", format=kind, do_not_split_by_at_sign=True), _MOST_STRUCTURES
    )
    return [("", frame) for frame in frames]


def _chosen(structures: Sequence[Named], index: str | int | None, name: str) -> ase.Atoms:
    """Return the one structure, or the one that is meant."""
    if not structures:
        raise StemAeError(f"{name} does not hold a structure.")
    if index is not None:
        by_name = [atoms for title, atoms in structures if title and title == str(index)]
        if len(by_name) == 1:
            return by_name[0]
        if re.fullmatch(r"-?\d{1,9}", str(index)) and -len(structures) <= int(index) < len(structures):
            return structures[int(index)][1]
    elif len(structures) == 1:
        return structures[0][1]
    listed = "; ".join(
        f"{k}: {' '.join(filter(None, [title, _formula(atoms)]))}"
        for k, (title, atoms) in enumerate(structures[:8])
    ) + (f"; and {len(structures) - 8} more" if len(structures) > 8 else "")
    if index is None:
        raise StemAeError(
            f"{name} holds {len(structures)} structures: choose one with --index, by its name or number ({listed})."
        )
    raise StemAeError(f"{name} has no structure {str(index)[:40]!r}: it holds {listed}.")


def _formula(atoms: ase.Atoms) -> str:
    try:
        return str(atoms.get_chemical_formula())
    except (IndexError, KeyError, ValueError):  # numbers of no element: another one may be meant
        return "no elements"


# --- files that state more than they hold -----------------------------------------------------------------------------

# Readers allocate memory for the number of atoms in the header before they read them.


def _refuse_more_than(count: int, lines: Sequence[str]) -> None:
    if count > len(lines):
        raise StemAeError(f"it states {count} atoms, and has {len(lines)} lines.")


def _whole_numbers(words: Sequence[str]) -> list[int]:
    return [int(word) for word in words if re.fullmatch(r"-?\d+", word)]


def _check_poscar(lines: Sequence[str]) -> None:
    _refuse_more_than(max((sum(_whole_numbers(line.split())) for line in lines[5:7]), default=0), lines)


def _check_first_number(line: int) -> Callable[[Sequence[str]], None]:
    def check(lines: Sequence[str]) -> None:
        found = _whole_numbers(lines[line].split()[:1]) if len(lines) > line else []
        _refuse_more_than(abs(found[0]) if found else 0, lines)

    return check


def _check_lammps(lines: Sequence[str]) -> None:
    for line in lines:
        if match := re.match(r"\s*(\d+)\s+atoms\b", line):
            _refuse_more_than(int(match[1]), lines)


_COUNTS: dict[str, Callable[[Sequence[str]], None]] = {
    "vasp": _check_poscar, "gen": _check_first_number(0), "cube": _check_first_number(2),
    "gromacs": _check_first_number(1), "lammps-data": _check_lammps, "xyz": _check_first_number(0),
}  # fmt: skip
"""By ASE's name of a format, what refuses a file that states more atoms than it has lines."""
