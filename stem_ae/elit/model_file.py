"""The description in a model file, checked before anything is built from it.

Models come from strangers, and files are cut short. A description that cannot be meant, networks of another shape than
it says, or weights that are no numbers are refused with one sentence, before memory is asked for. No torch here, since
lists only read headers.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.files import existing_file

FORMAT = "stem_ae-ensemble-1"
_MOST_MEMBERS, _MOST_SPECIES, _WIDEST = 50, 64, 256
_LONGEST_NAME = 100
_SAMPLING = (0.02, 1.0)  # Å per pixel of the networks' grid
_LARGEST_LATTICE = 100.0  # Å
_DEEPEST = 50  # levels of lists and mappings in the provenance
_PROBE = {
    "sigma": (0.05, 5.0), "ellipticity": (0.0, 2.0), "angle": (-10.0, 10.0), "energy_ev": (1e4, 1e6),
    "semiangle_mrad": (1.0, 200.0), "defocus": (-2e3, 2e3), "cs": (-1e7, 1e7), "astigmatism": (-2e3, 2e3),
    "source_sigma": (0.0, 5.0),
}  # fmt: skip
"""Range of each number of a refocus's probe: a probe of a millimetre would take all memory."""
_POSTERIOR = ("floor", "share", "common", "scale", "limit")


@dataclasses.dataclass(frozen=True)
class Header:
    """The description in a model file.

    Attributes
    ----------
    name : str
    species : tuple of str
    members, width : int
        Networks, and channels of their first level.
    sampling, lattice_constant : float
        Å per pixel, and Å.
    material : str
    posterior : mapping of str to tuple of float
    refocus : mapping or None
    provenance : mapping
    shapes : mapping of str to tuple of int
        Of every tensor in the file.
    """

    name: str
    species: tuple[str, ...]
    members: int
    width: int
    sampling: float
    lattice_constant: float
    material: str
    posterior: Mapping[str, tuple[float, ...]]
    refocus: Mapping[str, Any] | None
    provenance: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


def read_header(path: str | pathlib.Path) -> Header:
    """Return the description in a model file.

    Raises
    ------
    StemAeError
        If the file is missing, no model, or describes none that can be.
    """
    from safetensors import safe_open

    path = pathlib.Path(path)
    existing_file(path)
    try:
        with safe_open(path, "np") as file:
            facts = json.loads((file.metadata() or {})["stem_ae"])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if facts["format"] != FORMAT:
            raise KeyError(facts["format"])
    except Exception as error:  # safetensors raises its own kinds; whatever it is, the file is not ours
        reason = f"{error}".splitlines()[0][:200] if f"{error}" else type(error).__name__
        raise StemAeError(f"{path.name} is not a stem_ae model ({reason}).") from error
    try:
        return _checked(facts, shapes)
    except StemAeError as error:
        raise StemAeError(f"The model file {path.name} is damaged or was made by hand: {error}") from error


def _checked(facts: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Header:
    species = _names(_fact(facts, "species"))
    posterior = _mapping(facts.get("posterior") or {}, "posterior")
    refocus = facts.get("refocus")
    return Header(
        _name(_fact(facts, "name"), "The name"),
        species,
        checks.whole(_fact(facts, "members"), "The number of networks", 1, _MOST_MEMBERS),
        checks.whole(_fact(facts, "width"), "The networks' width", 1, _WIDEST),
        checks.number(_fact(facts, "sampling"), "The networks' sampling", *_SAMPLING, "Å per pixel"),
        checks.number(facts.get("lattice_constant", 0.0), "The lattice constant", 0.0, _LARGEST_LATTICE, "Å"),
        _text(facts.get("material", ""), "The material"),
        {name: _weights(posterior[name], name, len(species)) for name in _POSTERIOR if name in posterior},
        None if refocus is None else _refocus(_mapping(refocus, "refocus")),
        _provenance(facts.get("provenance", {})),
        shapes,
    )


def _fact(facts: Mapping[str, Any], name: str) -> Any:
    if name not in facts:
        raise StemAeError(f"it does not say its {name}.")
    return facts[name]


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise StemAeError(f"its {name} is {str(value)[:40]!r} and not a mapping.")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not (value.isprintable()):
        raise StemAeError(f"{what} is {str(value)[:40]!r}: give at most {_LONGEST_NAME} printable characters.")
    return value


def _name(value: Any, what: str) -> str:
    if not _text(value, what).strip():
        raise StemAeError(f"{what} is empty: give one.")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_SPECIES:
        raise StemAeError(f"The classes are {str(value)[:40]!r}: give a list of 1 to {_MOST_SPECIES} names.")
    names = tuple(_name(each, "A class") for each in value)
    if len(set(names)) < len(names):
        raise StemAeError(f"The classes are {', '.join(names)[:60]}: name each only once.")
    return names


def _weights(value: Any, name: str, classes: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) not in (1, classes):
        raise StemAeError(f"its posterior's {name} is {str(value)[:40]!r}: give one number, or one for each class.")
    return tuple(checks.number(each, f"The posterior's {name}", 0.0, 1e3) for each in value)


def _refocus(value: Mapping[str, Any]) -> Mapping[str, Any]:
    checks.positive(value.get("noise"), "The refocus's noise", 1e3)
    for name, part in _mapping(value.get("probe"), "refocus's probe").items():
        for each in part if isinstance(part, list) else [part]:
            checks.number(each, f"The probe's {name}", *_PROBE.get(name, (0.0, 0.0)))
    return value


def _provenance(value: Any) -> Mapping[str, Any]:
    level, inner = [_mapping(value, "provenance")], 0
    while level := [child for item in level for child in _children(item)]:
        inner += 1
        if inner > _DEEPEST:
            raise StemAeError("its provenance is nested too deeply.")
    return _mapping(value, "provenance")


def _children(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return list(item.values())
    return item if isinstance(item, list) else []


def check_shapes(header: Header, expected: Callable[[int, int], Mapping[str, tuple[int, ...]]]) -> None:
    """Compare the networks' tensors with the description.

    Parameters
    ----------
    header : Header
    expected : callable
        Returns the shape of each of a network's tensors for a number of classes and a width.

    Raises
    ------
    StemAeError
        If a tensor is missing or has another shape.
    """
    wanted = expected(len(header.species), header.width)
    for k in range(header.members):
        for name, shape in wanted.items():
            found = header.shapes.get(f"{k}.{name}")
            if found != tuple(shape):
                has = "is missing" if found is None else f"has the shape {found} and not {tuple(shape)}"
                raise StemAeError(f"network {k + 1} does not fit the description: {name} {has}.")


