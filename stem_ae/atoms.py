"""What was found in an image: the value that flows from imaging to targets, cells and simulations."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def as_sampling(sampling: float | Sequence[float]) -> tuple[float, float]:
    """Return the sampling as ``(y, x)`` in Å per pixel.

    Raises
    ------
    StemAeError
        If it is not one or two positive, finite numbers.
    """
    values = np.atleast_1d(np.asarray(sampling, dtype=float))
    if values.shape not in ((1,), (2,)) or not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise StemAeError(
            f"The sampling {sampling!r} is not valid: give one positive number in Å per pixel, or two as (y, x)."
        )
    return float(values[0]), float(values[-1])


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
    sampling : float or (float, float)
        Å per pixel, one number or ``(y, x)``.

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
    sampling: tuple[float, float]

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the dataclass is frozen

        put("positions", np.asarray(self.positions, dtype=float).reshape(-1, 2))
        n = len(self.positions)
        put("species", tuple(self.species))
        put("covariance", np.asarray(self.covariance, dtype=float).reshape(-1, 2, 2))
        put("labels", np.asarray(self.labels, dtype=np.int64).reshape(-1))
        put("probabilities", np.asarray(self.probabilities, dtype=float).reshape(-1, len(self.species)))
        put("intensity", np.asarray(self.intensity, dtype=float).reshape(-1))
        put("shape", (int(self.shape[0]), int(self.shape[1])))
        put("sampling", as_sampling(self.sampling))
        for name in ("covariance", "labels", "probabilities", "intensity"):
            if len(getattr(self, name)) != n:
                raise StemAeError(f"Atoms2D has {n} positions but {len(getattr(self, name))} rows of {name}.")
        if n and (self.labels.min() < 0 or self.labels.max() >= len(self.species)):
            raise StemAeError(f"Atoms2D has a label outside its {len(self.species)} species.")

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def empty(
        cls, species: Sequence[str], shape: tuple[int, int], sampling: float | tuple[float, float]
    ) -> Atoms2D:
        """Return an image's worth of no atoms."""
        c = len(species)
        return cls(
            np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0, np.int64), tuple(species), np.zeros((0, c)),
            np.zeros(0), shape, as_sampling(sampling),
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
    def positions_px(self) -> FloatArray:
        """Positions in pixels, ``(N, 2)``, x (column) then y (row); pixel centres are integers."""
        pixels: FloatArray = self.positions / np.array([self.sampling[1], self.sampling[0]])
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
            If the suffix names neither.
        """
        path = pathlib.Path(path)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            text = self._to_csv()
        elif suffix in (".xyz", ".extxyz"):
            text = self._to_extxyz()
        else:
            raise StemAeError(f"Cannot write atoms to {path.name!r}: use the suffix .csv, .xyz or .extxyz.")
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: str | pathlib.Path) -> Atoms2D:
        """Read atoms that :meth:`write` wrote.

        Raises
        ------
        StemAeError
            If the file does not hold them.
        """
        path = pathlib.Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            return cls._from_csv(text) if path.suffix.lower() == ".csv" else cls._from_extxyz(text)
        except OSError as error:
            raise StemAeError(f"Cannot read {path}: {error.strerror}.") from error
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StemAeError(f"{path.name} does not hold atoms that stem_ae wrote ({error}).") from error

    def _header(self) -> dict[str, object]:
        return {"species": list(self.species), "shape": list(self.shape), "sampling": list(self.sampling)}

    def _table(self) -> FloatArray:
        c = self.covariance
        columns = [self.positions, c[:, 0, 0], c[:, 0, 1], c[:, 1, 1], self.intensity, self.probabilities]
        return np.column_stack(columns) if len(self) else np.zeros((0, 6 + len(self.species)))

    @classmethod
    def _from_table(cls, labels: IntArray, table: FloatArray, header: dict[str, list[float]]) -> Atoms2D:
        species = tuple(str(name) for name in header["species"])
        table = np.asarray(table, dtype=float).reshape(-1, 6 + len(species))
        covariance = np.stack([table[:, 2], table[:, 3], table[:, 3], table[:, 4]], axis=1).reshape(-1, 2, 2)
        shape, sampling = header["shape"], header["sampling"]
        return cls(
            table[:, :2], covariance, labels, species, table[:, 6:], table[:, 5],
            (int(shape[0]), int(shape[1])), (float(sampling[0]), float(sampling[1])),
        )

    def _to_csv(self) -> str:
        out = io.StringIO()
        out.write("# " + json.dumps({"stem_ae": "atoms", **self._header()}) + "\n")
        writer = csv.writer(out, lineterminator="\n")
        names = ["x_angstrom", "y_angstrom", "var_x", "cov_xy", "var_y", "intensity"]
        writer.writerow(["species", *names, *(f"p_{name}" for name in self.species)])
        for symbol, row in zip(self.symbols, self._table(), strict=True):
            writer.writerow([symbol, *(repr(float(value)) for value in row)])
        return out.getvalue()

    @classmethod
    def _from_csv(cls, text: str) -> Atoms2D:
        first, _, *rows = text.splitlines()
        header = json.loads(first.removeprefix("# "))
        records = list(csv.reader(rows))
        labels = np.array([header["species"].index(record[0]) for record in records], dtype=np.int64)
        return cls._from_table(labels, np.array([record[1:] for record in records], dtype=float), header)

    def _to_extxyz(self) -> str:
        # z is zero and y keeps pointing down: this is a table of the image, stem_ae.structure makes cells of it.
        header = json.dumps(self._header()).replace('"', r"\"")
        c = len(self.species)
        out = [str(len(self))]
        out.append(
            f"Properties=species:S:1:pos:R:3:covariance:R:3:intensity:R:1:probabilities:R:{c}:label_name:S:1 "
            f'pbc="F F F" stem_ae="{header}"'
        )
        for name, row in zip(self.symbols, self._table(), strict=True):
            numbers = [*row[:2], 0.0, *row[2:]]
            out.append(" ".join([_element(name), *(repr(float(value)) for value in numbers), name]))
        return "\n".join(out) + "\n"

    @classmethod
    def _from_extxyz(cls, text: str) -> Atoms2D:
        lines = text.splitlines()
        start = lines[1].index('stem_ae="') + len('stem_ae="')
        header = json.loads(lines[1][start : lines[1].rindex('"')].replace(r"\"", '"'))
        rows = [line.split() for line in lines[2 : 2 + int(lines[0])]]
        labels = np.array([header["species"].index(row[-1]) for row in rows], dtype=np.int64)
        table = np.array([[*row[1:3], *row[4:-1]] for row in rows], dtype=float)
        return cls._from_table(labels, table, header)


def _element(name: str) -> str:
    """Return the chemical symbol in a class name (``S2`` is a column of two S)."""
    return name.rstrip("0123456789") or "X"
