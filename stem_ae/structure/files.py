"""Structures in files."""

from __future__ import annotations

import json
import pathlib

import ase
import ase.io
from ase.io import jsonio

from stem_ae.errors import StemAeError


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
    try:
        if path.suffix == ".json":
            path.write_text(jsonio.encode(atoms.copy()), encoding="utf-8")
        elif path.suffix in (".xyz", ".extxyz"):
            ase.io.write(path, atoms, format="extxyz")
        else:
            ase.io.write(path, atoms)
    except OSError as error:
        raise StemAeError(f"Cannot write {path}: {error.strerror}.") from error
    except (ase.io.formats.UnknownFileTypeError, ValueError, KeyError) as error:
        raise StemAeError(f"Cannot write a structure as {path.name!r}: use .json, .extxyz, .cif or POSCAR.") from error
    return path


def read(path: str | pathlib.Path) -> ase.Atoms:
    """Read a structure in any format that ASE reads.

    Raises
    ------
    StemAeError
        If it cannot be read.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix == ".json":
            atoms = jsonio.decode(path.read_text(encoding="utf-8"))
        else:
            atoms = ase.io.read(path, format="extxyz" if path.suffix in (".xyz", ".extxyz") else None)
    except OSError as error:
        raise StemAeError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ase.io.formats.UnknownFileTypeError, json.JSONDecodeError, ValueError, KeyError, IndexError) as error:
        raise StemAeError(f"{path.name} does not hold a structure that can be read.") from error
    if not isinstance(atoms, ase.Atoms):
        raise StemAeError(f"{path.name} does not hold one structure.")
    return atoms
