"""What the Explorer panel remembers, and what its words mean to the library."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import typing

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.explore.objective import Objective, Property
from stem_ae.explore.path import APART
from stem_ae.explore.scalarize import (
    PATTERN_SCALARIZERS,
    SPECTRUM_SCALARIZERS,
    CentreOfMass,
    DiskStrain,
    Expression,
    Reciprocal,
    Scalarizer,
    scalarize,
)
from stem_ae.microscope.frame import CameraFrame

from .settings import Store, stored
from .typed import TypedError, count, number

KEY = "stem_ae/explorer_panel"
CAMERAS = ("eels", "diffraction")
SURROGATES = ("dkl", "descriptor", "gp", "auto")
ACQUISITIONS = ("ei", "ucb", "pi", "uncertainty", "thompson", "novelty")
PROPERTIES: dict[str, tuple[str, ...]] = {
    "eels": tuple(SPECTRUM_SCALARIZERS), "diffraction": tuple(PATTERN_SCALARIZERS),
}  # fmt: skip
"""What can be looked for with each camera."""
FIRST_WORDS = {
    "band integral": "284-320", "peak ratio": "14-16, 21-23", "peak maximum": "10-30", "peak position": "10-30",
    "edge area": "220-280, 284-340", "centre of mass": "magnitude", "virtual detector": "40-64",
    "disk strain": "dilatation; 8; 0 0, 25 0, 0 25",
}  # fmt: skip
"""What the words of each property are at first: bands in eV, angles in mrad."""
_FIRST_EXPRESSION = {"eels": "band(284, 320) / band(220, 280)", "diffraction": "detector(40, 64)"}


@dataclasses.dataclass(frozen=True)
class Other:
    """A property that is looked at beside the first one."""

    name: str
    words: str
    weight: str = "0"
    """Against the first: 0 is only shown, below zero its low values are looked for."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What was typed, as numbers; the units are those of :class:`Settings` but where the name says another."""

    patch: int
    step: int
    points: int
    batch: int
    drift_every: int
    exposure_s: float
    dose_per_point: float
    dose_budget: float | None
    feature: float
    """Share of the candidates, 0 to 1."""
    min_distance: float
    travel: float


@dataclasses.dataclass
class Settings:
    """The settings, with the values of a first start; numbers as the user types them."""

    camera: str = "eels"
    exposure_ms: str = "20"
    properties: dict[str, str] = dataclasses.field(default_factory=dict)
    """Chosen property for each camera."""
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of each property, as ``camera/property``."""
    beside: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    """For each camera what is looked at beside it, as :class:`Other`."""
    surrogate: str = "dkl"
    acquisition: str = "ei"
    feature: str = "2"
    """Per cent of the candidates that are looked for."""
    patch: str = "16"
    step: str = "2"
    """Pixels between candidates."""
    points: str = "100"
    batch: str = "10"
    current_pa: str = "200"
    dose_budget: str = ""
    """Millions of electrons; empty: no limit."""
    drift_every: str = "0"
    min_distance: str = "1"
    """Å between two points, at least."""
    travel: str = "0"
    """What a move across the whole specimen costs, in units of the gain of the best point over a middling one."""

    @property
    def property_name(self) -> str:
        """What is looked for with the chosen camera."""
        names = PROPERTIES[self.camera]
        name = self.properties.get(self.camera, names[0])
        return name if name in names else names[0]

    @property
    def property_words(self) -> str:
        """Its bands, angles or expression."""
        return self.words.get(f"{self.camera}/{self.property_name}", self.first_words(self.property_name))

    def first_words(self, name: str) -> str:
        """Return what the words of a property are at first."""
        return FIRST_WORDS.get(name, _FIRST_EXPRESSION[self.camera])

    @property
    def others(self) -> list[Other]:
        """What is looked at beside it with the chosen camera."""
        names, texts = PROPERTIES[self.camera], [field.name for field in dataclasses.fields(Other)]
        stored = self.beside.get(self.camera, [])
        return [
            Other(**{text: str(one[text]) for text in texts})
            for one in (stored if isinstance(stored, list) else [])
            if isinstance(one, dict) and one.get("name") in names and one.keys() >= set(texts)
        ]

    @others.setter
    def others(self, others: list[Other]) -> None:
        self.beside[self.camera] = [dataclasses.asdict(one) for one in others]

    @property
    def exposure_s(self) -> float:
        """Exposure of a point."""
        return number(self.exposure_ms, "The exposure") / 1e3

    @property
    def dose_per_point(self) -> float:
        """Millions of electrons."""
        return number(self.current_pa, "The beam current") * self.exposure_s * 6.241509074  # 1 pA s = 6.24 million

    def numbers(self) -> Numbers:
        """Return what was typed.

        Raises
        ------
        TypedError
            If a field cannot be read.
        """
        budget = number(self.dose_budget, "The dose budget") if self.dose_budget else None
        feature = number(self.feature, "The share looked for")
        if feature > 100:
            raise TypedError(f"The share looked for is {feature:g} per cent of the region: type 100 at most.")
        return Numbers(
            patch=count(self.patch, "The patch", 2), step=count(self.step, "The step", 1),
            points=count(self.points, "The number of points", 1), batch=count(self.batch, "The batch", 1),
            drift_every=count(self.drift_every or "0", "The number of points between surveys"),
            exposure_s=self.exposure_s, dose_per_point=self.dose_per_point, dose_budget=budget, feature=feature / 100,
            min_distance=number(self.min_distance or f"{APART:g}", "The minimum spacing", 0.0),
            travel=number(self.travel or "0", "The travel penalty", 0.0),
        )  # fmt: skip

    def scalarizers(self) -> dict[str, Scalarizer]:
        """Return what makes numbers of a spectrum or pattern, by what to call them, the one looked for first.

        Raises
        ------
        StemAeError
            If the words are not understood.
        """
        found = {self.property_name: read_property(self.camera, self.property_name, self.property_words)}
        for other in self.others:
            name = other.name if other.name not in found else f"{other.name} ({other.words})"
            scalarizer = read_property(self.camera, other.name, other.words)
            if scalarizer in found.values():
                raise StemAeError(f"{name} is there twice: change the words of one, or remove it.")
            found[name] = scalarizer
        return found

    def objective(self) -> Objective[CameraFrame]:
        """Return what is looked for.

        Raises
        ------
        StemAeError
            If the words or the weight are not understood.
        """
        try:
            weights = [1.0, *(float((other.weight or "0").replace(",", ".")) for other in self.others)]
        except ValueError:
            weights = [math.nan]
        if not all(map(math.isfinite, weights)):
            raise TypedError("A weight has to be a number, such as 1 or -0.5; 0: it is only shown.")
        each = zip(self.scalarizers().values(), weights, strict=True)
        return Objective(tuple(Property(functools.partial(value_of, one), weight) for one, weight in each))

    @classmethod
    def load(cls, store: Store) -> Settings:
        """Return what was stored; values that this version does not understand are left at their first ones."""
        known = {"camera": CAMERAS, "surrogate": SURROGATES, "acquisition": ACQUISITIONS}
        return stored(cls(), store, KEY, known)

    def save(self, store: Store) -> None:
        """Store the settings."""
        store.set_persistent_string(KEY, json.dumps(dataclasses.asdict(self)))


def read_property(camera: str, name: str, words: str) -> Scalarizer:
    """Return the scalarizer that a name and its words mean.

    Raises
    ------
    StemAeError
        If the words are not understood.
    """
    if name == "expression":
        return Expression(words)
    if name == "centre of mass":
        return CentreOfMass(typing.cast(typing.Any, words.strip().lower()))
    if name == "disk strain":
        return _disk_strain(words)
    maker: typing.Any = (SPECTRUM_SCALARIZERS if camera == "eels" else PATTERN_SCALARIZERS)[name]
    bands = [_band(part) for part in words.split(",")]
    wanted = 2 if name in ("peak ratio", "edge area") else 1
    if len(bands) != wanted:
        bands_wanted = "two bands" if wanted == 2 else "one band"
        raise TypedError(f"“{words}” is not understood: type {bands_wanted}, such as {FIRST_WORDS[name]}.")
    return typing.cast(Scalarizer, maker(*bands[0]) if name == "virtual detector" else maker(*bands))


def _band(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"\s*(-?[\d.]+)\s*(?:-|–|to)\s*(-?[\d.]+)\s*", text)
    try:
        low, high = (float(part) for part in found.groups()) if found else (1.0, 0.0)
    except ValueError:
        low, high = 1.0, 0.0
    if low >= high:
        raise TypedError(f"“{text.strip()}” is not a band: type it as 284-320, the lower end first.")
    return low, high


def _disk_strain(words: str) -> DiskStrain:
    try:
        component, radius, disks = words.split(";")
        places = [tuple(float(value) for value in disk.split()) for disk in disks.split(",")]
        pairs = tuple((y, x) for y, x in places)
        return DiskStrain(pairs, float(radius), typing.cast(typing.Any, component.strip()))
    except ValueError as error:
        raise StemAeError(
            f"“{words}” is not understood: type component; radius in mrad; y x of at least three disks, such as "
            f"{FIRST_WORDS['disk strain']}."
        ) from error


def bands_of(scalarizer: Scalarizer) -> list[tuple[float, float]]:
    """Return the energy bands that a scalarizer looks at."""
    values = [getattr(scalarizer, field.name) for field in dataclasses.fields(scalarizer)]
    return [value for value in values if isinstance(value, tuple) and len(value) == 2]


def value_of(scalarizer: Scalarizer, frame: CameraFrame) -> float:
    """Return the property of one exposure."""
    calibration: typing.Any = frame.axis if frame.data.ndim == 1 else Reciprocal(frame.scale)
    value: NDArray[np.float64] = scalarize(frame.data, calibration, {"value": scalarizer})["value"]
    return float(value)
