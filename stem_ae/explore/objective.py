"""What an experiment looks for: one property of each exposure, or several with weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
Exposure = TypeVar("Exposure")


@dataclasses.dataclass(frozen=True)
class Property(Generic[Exposure]):
    """One number that is made of each exposure.

    Parameters
    ----------
    value_of : callable
        Returns it; NaN: the exposure has none.
    weight : float
        How much it is looked for against the others; below zero: its low values are. 0: it is only predicted.
    """

    value_of: Callable[[Exposure], float]
    weight: float = 1.0

    def __post_init__(self) -> None:
        checks.number(self.weight, "A property's weight")

    def __call__(self, exposure: Exposure) -> float:
        """Return the number, NaN if it is none or not finite.

        Raises
        ------
        StemAeError
            If it cannot be computed.
        """
        try:
            value = self.value_of(exposure)
        except StemAeError:
            raise
        except Exception as error:  # whatever somebody's own function does
            raise StemAeError(
                f"The property cannot be computed from an exposure ({type(error).__name__}: {error}): correct it, or "
                "choose another one."
            ) from error
        return checks.finite_or_nan(value)


@dataclasses.dataclass(frozen=True)
class Objective(Generic[Exposure]):
    """Several properties as one.

    A property that alone is looked for, with a weight of 1, keeps its own numbers. Otherwise what is looked for is the
    weighted sum of the properties, each less its mean and over its standard deviation among the first ``scale_from``
    measurements: fixed numbers, so that what was told once stays true.
    """

    properties: tuple[Property[Exposure], ...]

    def __post_init__(self) -> None:
        if not any(one.weight for one in self.properties):
            raise StemAeError("No property has a weight: say which of them is looked for.")

    @classmethod
    def of(cls, looked_for: Callable[[Exposure], float] | Objective[Exposure]) -> Objective[Exposure]:
        """Return the objective of one function, or the objective given."""
        return looked_for if isinstance(looked_for, Objective) else cls((Property(looked_for),))

    def numbers(self, exposure: Exposure) -> tuple[float, ...]:
        """Return the properties of one exposure."""
        return tuple(one(exposure) for one in self.properties)

    def values(self, numbers: Sequence[Sequence[float]] | ArrayLike, scale_from: int) -> FloatArray:
        """Return what is looked for, ``(n,)``, from the properties ``(n, p)`` of all measurements in order."""
        table = np.asarray(numbers, dtype=float).reshape(-1, len(self.properties))
        weights = np.array([one.weight for one in self.properties])
        used = weights != 0  # a property that is only predicted may be missing
        if used.sum() == 1 and weights[used][0] == 1.0:
            return table[:, used][:, 0]
        total: FloatArray = _standardised(table[:, used], scale_from) @ weights[used]
        return total


def _standardised(table: FloatArray, scale_from: int) -> FloatArray:
    first = table[:scale_from]
    usable = first[np.isfinite(first).all(axis=1)]
    if len(usable) < 2:
        return table - (usable[0] if len(usable) else 0.0)
    spread = usable.std(axis=0)
    standardised: FloatArray = (table - usable.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return standardised
