"""What was found in an image: the value that flows from imaging to targets, cells and simulations."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError
from stem_ae.files import whole

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def as_sampling(sampling: float | Sequence[float]) -> tuple[float, float]:
    """Return the sampling as ``(y, x)`` in Å per pixel.

    Raises
    ------
    StemAeError
        If it is not one or two positive, finite numbers.
    """
    try:
        values = np.atleast_1d(np.asarray(sampling, dtype=float))
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape not in ((1,), (2,)) or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise StemAeError(
            f"The sampling {sampling!r} is not valid: give one positive number in Å per pixel, or two as (y, x)."
        )
    return float(values[0]), float(values[-1])


_FARTHEST = 1e9
"""Å, or pixels where the sampling is not known."""


@dataclasses.dataclass(frozen=True, eq=False)
class Atoms2D:
    """Atoms (or atomic columns) found in one image.

    Parameters
    ----------
    positions : (N, 2) array
        x then y, in Å. The origin is the centre of the top-left pixel, y points down as on the screen.
    covariance : (N, 2, 2) array
        Covariance of each position in Å², same axis order.
    labels : (N,) array
        Index of each atom's class in ``species``.
    species : sequence of str
        Names of the classes, such as ``["C", "Si"]`` or ``["Mo", "S2", "S1"]``.
    probabilities : (N, C) array
        Probability of each class for each atom; rows sum to one.
    intensity : (N,) array
        Integrated signal of each atom above its background, in the image's units.
    shape : (int, int)
        Image shape ``(H, W)`` in pixels.
    sampling : float, (float, float) or None
        Å per pixel, one number or ``(y, x)``. None: it is not known, and all lengths are in pixels instead of Å.

    Raises
    ------
    StemAeError
        If the arrays do not belong together.
    """

    positions: FloatArray
    covariance: FloatArray
    labels: IntArray
    species: tuple[str, ...]
    probabilities: FloatArray
    intensity: FloatArray
    shape: tuple[int, int]
    sampling: tuple[float, float] | None

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the dataclass is frozen

        put("sampling", None if self.sampling is None else as_sampling(self.sampling))
        try:
            put("positions", np.asarray(self.positions, dtype=float).reshape(-1, 2))
            put("species", tuple(self.species))
            put("covariance", np.asarray(self.covariance, dtype=float).reshape(-1, 2, 2))
            put("labels", np.asarray(self.labels, dtype=np.int64).reshape(-1))
            put("probabilities", np.asarray(self.probabilities, dtype=float).reshape(-1, len(self.species)))
            put("intensity", np.asarray(self.intensity, dtype=float).reshape(-1))
            put("shape", (int(self.shape[0]), int(self.shape[1])))
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise StemAeError(f"Atoms2D has arrays of other shapes or types than it says ({error}).") from error
        n = len(self.positions)
        for name in ("covariance", "labels", "probabilities", "intensity"):
            if len(getattr(self, name)) != n:
                raise StemAeError(f"Atoms2D has {n} positions but {len(getattr(self, name))} rows of {name}.")
        if n and (self.labels.min() < 0 or self.labels.max() >= len(self.species)):
            raise StemAeError(f"Atoms2D has a label outside its {len(self.species)} species.")
        if not np.isfinite(self.positions).all():
            raise StemAeError("Atoms2D has a position that is not finite: leave such atoms out.")
        if n and np.abs(self.positions).max() > _FARTHEST:
            raise StemAeError(f"Atoms2D has a position beyond {_FARTHEST:g} Å: no image is that large.")

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def empty(
        cls, species: Sequence[str], shape: tuple[int, int], sampling: float | tuple[float, float] | None
    ) -> Atoms2D:
        """Return an image's worth of no atoms."""
        c = len(species)
        return cls(
            np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0, np.int64), tuple(species), np.zeros((0, c)),
            np.zeros(0), shape, None if sampling is None else as_sampling(sampling),
        )

    def __getitem__(self, selection: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Atoms2D:
        """Return the selected atoms of the same image (a mask, indices or a slice)."""
        return dataclasses.replace(
            self,
            positions=self.positions[selection],
            covariance=self.covariance[selection],
            labels=self.labels[selection],
            probabilities=self.probabilities[selection],
            intensity=self.intensity[selection],
        )

    @property
    def confidence(self) -> FloatArray:
        """Probability of the class that was chosen, ``(N,)``."""
        chosen: FloatArray = self.probabilities[np.arange(len(self)), self.labels]
        return chosen

    @property
    def step(self) -> tuple[float, float]:
        """Length of a pixel in the unit of the positions, ``(y, x)``: the sampling, or 1 where it is not known."""
        return self.sampling or (1.0, 1.0)

    @property
    def known_sampling(self) -> tuple[float, float]:
        """The sampling, for what takes real lengths.

        Raises
        ------
        StemAeError
            If it is not known.
        """
        if self.sampling is None:
            raise StemAeError(
                "These positions are in pixels, since the image's sampling is not known: give it in Å per pixel and "
                "find the atoms again."
            )
        return self.sampling

    @property
    def positions_px(self) -> FloatArray:
        """Positions in pixels, ``(N, 2)``, x (column) then y (row); pixel centres are integers."""
        pixels: FloatArray = self.positions / np.array(self.step[::-1])
        return pixels

    @property
    def symbols(self) -> list[str]:
        """Name of each atom's class, ``(N,)``."""
        return [self.species[k] for k in self.labels]

    def counts(self) -> dict[str, int]:
        """Return how many atoms each class has, in the order of ``species``."""
        numbers = np.bincount(self.labels, minlength=len(self.species))
        return {name: int(number) for name, number in zip(self.species, numbers, strict=True)}

    # --- files ------------------------------------------------------------------------------------------------------

    def write(self, path: str | pathlib.Path) -> pathlib.Path:
        """Write the atoms as CSV or extended XYZ, by the suffix (``.csv``, ``.xyz``, ``.extxyz``).

        Raises
        ------
        StemAeError
            If the suffix names neither, or the file cannot be written.
        """
        from stem_ae import atom_tables

        path = pathlib.Path(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            text = atom_tables.to_csv(self)
        elif suffix in (".xyz", ".extxyz"):
            text = atom_tables.to_extxyz(self)
        else:
            raise StemAeError(f"Cannot write atoms to {path.name!r}: use the suffix .csv, .xyz or .extxyz.")
        try:
            with whole(path) as part:
                part.write_text(text, encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise StemAeError(f"Cannot write {path}: {getattr(error, 'strerror', None) or error}.") from error
        return path

    @classmethod
    def read(cls, path: str | pathlib.Path) -> Atoms2D:
        """Read atoms that :meth:`write` wrote, also after a table program or ASE has written them anew.

        The columns of a CSV are identified by their names, those of an extended XYZ by ``Properties``.

        Raises
        ------
        StemAeError
            If the file does not hold them, or holds what cannot be: NaN, negative variances.
        """
        from stem_ae import atom_tables

        return atom_tables.read(pathlib.Path(path))
