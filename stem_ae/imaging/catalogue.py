"""Specimens by name, each the same every time it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from stem_ae.errors import StemAeError
from stem_ae.imaging.defects import grain_boundary, hole
from stem_ae.imaging.nanoparticles import nanoparticles
from stem_ae.imaging.oxides import domain_walls, nio_lsmo
from stem_ae.imaging.specimens import Specimen, graphene, mos2

EXTENT = (160.0, 160.0)  # Å: leaves room around the usual fields of view for stage and drift


@dataclasses.dataclass(frozen=True)
class Entry:
    """A specimen of the catalogue.

    Parameters
    ----------
    make : callable
        Returns it.
    contamination : float
        Fraction of its area that is under hydrocarbon.
    material : str
        The bundled model that was made for it; empty where none was.
    """

    make: Callable[[], Specimen]
    contamination: float = 0.0
    material: str = ""


_ENTRIES = {
    "graphene with silicon": Entry(lambda: graphene(EXTENT, silicon=0.01), material="graphene"),
    "graphene with vacancies": Entry(lambda: graphene(EXTENT, silicon=0.01, vacancies=0.01), material="graphene"),
    "graphene with a grain boundary": Entry(lambda: grain_boundary(EXTENT), material="graphene"),
    "graphene with a hole, contaminated": Entry(lambda: hole(EXTENT), contamination=0.3, material="graphene"),
    "MoS2 with vacancies": Entry(lambda: mos2(EXTENT), material="mos2"),
    "NiO pillars in LSMO": Entry(lambda: nio_lsmo(EXTENT)),
    "BiFeO3 with domain walls": Entry(lambda: domain_walls(EXTENT)),
    "aluminium nanoparticles": Entry(lambda: nanoparticles(EXTENT)),
}


def names() -> list[str]:
    """Return the names of all specimens."""
    return list(_ENTRIES)


def entry(name: str) -> Entry:
    """Return the entry of that name.

    Raises
    ------
    StemAeError
        If there is none.
    """
    if name not in _ENTRIES:
        raise StemAeError(f"There is no specimen {name!r}: choose one of {', '.join(_ENTRIES)}.")
    return _ENTRIES[name]
