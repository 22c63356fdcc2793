"""Where a scan lies on the specimen: the one place that turns scan positions into specimen positions and back.

A position in a scan is a *fraction*: (0, 0) is the top-left corner, (1, 1) the bottom-right one, so that pixel
``(row, column)`` of an ``(H, W)`` frame is centred on ``((column + 0.5) / W, (row + 0.5) / H)``, as Swift draws it.
Points are arrays ``(..., 2)``, x then y (down); lengths are in Å.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ScanField:
    """The rectangle that a scan covers.

    ``specimen = centre - offset + R(rotation) (fraction - 1/2) fov``, where ``R`` turns x towards y.

    Parameters
    ----------
    fov : (float, float)
        Size in Å, x and y.
    centre : (float, float)
        Where the scan's middle lies, in Å along the specimen's axes (not turned with the scan).
    rotation : float
        Scan rotation in radians, from x towards y (clockwise on the screen).
    offset : (float, float)
        Displacement of the specimen (stage minus beam shift, plus drift) in Å; a positive one moves the image right
        and down.
    """

    fov: tuple[float, float]
    centre: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)

    def to_specimen(self, fraction: ArrayLike) -> FloatArray:
        """Return specimen positions in Å of scan fractions ``(..., 2)``."""
        across = (np.asarray(fraction, dtype=float) - 0.5) * self.fov
        return across @ self._turn.T + self._middle

    def to_fraction(self, xy: ArrayLike) -> FloatArray:
        """Return scan fractions of specimen positions ``(..., 2)`` in Å."""
        across: FloatArray = (np.asarray(xy, dtype=float) - self._middle) @ self._turn
        return across / self.fov + 0.5

    def to_image(self, xy: ArrayLike, shape: tuple[int, int]) -> FloatArray:
        """Return where specimen positions lie in an ``(H, W)`` image: Å from the centre of its top-left pixel."""
        dy, dx = self.sampling(shape)
        return self.to_fraction(xy) * self.fov - 0.5 * np.array([dx, dy])

    def sampling(self, shape: tuple[int, int]) -> tuple[float, float]:
        """Return Å per pixel, ``(y, x)``, of an ``(H, W)`` image of this field."""
        return self.fov[1] / shape[0], self.fov[0] / shape[1]

    def direction_in_image(self, vector: ArrayLike) -> FloatArray:
        """Return a specimen displacement ``(..., 2)`` along the image's axes."""
        turned: FloatArray = np.asarray(vector, dtype=float) @ self._turn
        return turned

    def moved(self, by: ArrayLike) -> ScanField:
        """Return the field after the specimen has moved ``by`` (x, y) Å."""
        x, y = np.asarray(by, dtype=float)
        return dataclasses.replace(self, offset=(self.offset[0] + float(x), self.offset[1] + float(y)))

    def part(self, centre: ArrayLike, size: ArrayLike, rotation: float = 0.0) -> ScanField:
        """Return the field of a sub-scan.

        Parameters
        ----------
        centre, size : (float, float)
            Fractions of this field, x and y.
        rotation : float
            Of the sub-scan within this field, in radians, counter-clockwise on the screen (Swift's convention).
        """
        shift = ((np.asarray(centre, dtype=float) - 0.5) * self.fov) @ self._turn.T
        width, height = np.asarray(size, dtype=float) * self.fov
        return ScanField(
            fov=(float(width), float(height)),
            centre=(self.centre[0] + float(shift[0]), self.centre[1] + float(shift[1])),
            rotation=self.rotation - rotation,
            offset=self.offset,
        )

    @property
    def _turn(self) -> FloatArray:
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        return np.array([[c, -s], [s, c]])

    @property
    def _middle(self) -> FloatArray:
        return np.subtract(self.centre, self.offset)


def pixel_centres(shape: tuple[int, int]) -> FloatArray:
    """Return the scan fractions of all pixels of an ``(H, W)`` frame, ``(H, W, 2)``."""
    rows, columns = np.indices(shape, dtype=float)
    return np.stack([(columns + 0.5) / shape[1], (rows + 0.5) / shape[0]], axis=-1)
