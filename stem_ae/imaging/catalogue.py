"""Specimens by name, each the same every time it is made."""

from __future__ import annotations

from collections.abc import Callable

from stem_ae.errors import StemAeError
from stem_ae.imaging.specimens import Specimen, graphene, mos2

EXTENT = (160.0, 160.0)  # Å: leaves room around the usual fields of view for stage and drift

_MAKERS: dict[str, Callable[[], Specimen]] = {
    "graphene with silicon": lambda: graphene(EXTENT, silicon=0.01),
    "graphene with vacancies": lambda: graphene(EXTENT, silicon=0.01, vacancies=0.01),
    "MoS2 with vacancies": lambda: mos2(EXTENT),
}


def names() -> list[str]:
    """Return the names of all specimens."""
    return list(_MAKERS)


def make(name: str) -> Specimen:
    """Return the specimen of that name.

    Raises
    ------
    StemAeError
        If there is none.
    """
    if name not in _MAKERS:
        raise StemAeError(f"There is no specimen {name!r}: choose one of {', '.join(_MAKERS)}.")
    return _MAKERS[name]()
