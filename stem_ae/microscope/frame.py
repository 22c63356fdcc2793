"""What is asked of a microscope and what it gives: scan frames, images, camera frames, readings.

Places are given in the *scan plane*: x and y in Å from where an undeflected, unshifted beam would be, along the axes
of an unrotated scan, y down. An image's own coordinates (Å from the centre of its top-left pixel, as in ``Atoms2D``)
become places by :meth:`Frame.to_plane`, whatever its rotation, centre and field of view.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.imaging.scan_field import ScanField

FloatArray = NDArray[np.float64]

_WIDEST = 1e8  # Å: a centimetre
_MOST_PIXELS = 65_536  # along one side


@dataclasses.dataclass(frozen=True)
class Frame:
    """What to scan.

    Parameters
    ----------
    fov : float
        Longer side in Å.
    shape : (int, int)
        ``(H, W)`` in pixels, which are square.
    dwell_us : float
        Per pixel, in microseconds.
    centre : (float, float)
        Where the middle lies in the scan plane, x and y in Å.
    rotation : float
        In radians, from x towards y.
    within : Frame, optional
        The whole frame that this is a sub-scan of; see :meth:`part`.

    Raises
    ------
    StemAeError
        If a number is NaN, infinite, or none that a microscope could scan with.
    """

    fov: float
    shape: tuple[int, int]
    dwell_us: float = 2.0
    centre: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    within: Frame | None = None

    def __post_init__(self) -> None:
        checks.positive(self.fov, "The field of view", _WIDEST, "Å")
        checks.positive(self.dwell_us, "The dwell time", 1e6 * checks.MOST_S, "µs")
        shape = checks.shape(self.shape, "The shape of a scan", _MOST_PIXELS)
        object.__setattr__(self, "shape", shape)  # the dataclass is frozen
        checks.place(self.centre, "The scan's centre")
        checks.number(self.rotation, "The scan's rotation")
        checks.positive(self.seconds, "The time for one frame", checks.MOST_S, "s")

    @property
    def sampling(self) -> tuple[float, float]:
        """Å per pixel, ``(y, x)``."""
        step = self.fov / max(self.shape)
        return step, step

    @property
    def seconds(self) -> float:
        """How long the beam exposes it."""
        return self.shape[0] * self.shape[1] * self.dwell_us * 1e-6

    @property
    def field(self) -> ScanField:
        """The rectangle of the scan plane that it covers."""
        height, width = np.multiply(self.shape, self.sampling)
        return ScanField((float(width), float(height)), self.centre, self.rotation)

    def to_plane(self, xy: ArrayLike) -> FloatArray:
        """Return the places ``(..., 2)`` of image positions: x and y in Å from the centre of the top-left pixel."""
        half_pixel = 0.5 * np.array(self.sampling[::-1])
        return self.field.to_specimen((np.asarray(xy, dtype=float) + half_pixel) / self.field.fov)

    def from_plane(self, places: ArrayLike) -> FloatArray:
        """Return where places ``(..., 2)`` lie in the image, in Å from the centre of the top-left pixel."""
        return self.field.to_image(places, self.shape)

    def pixels_to_plane(self, points: ArrayLike) -> FloatArray:
        """Return the places ``(..., 2)`` of pixels given as row and column."""
        return self.to_plane(np.asarray(points, dtype=float)[..., ::-1] * self.sampling[::-1])

    def part(
        self, centre: tuple[float, float], size: tuple[float, float], shape: tuple[int, int], dwell_us: float = 0.0
    ) -> Frame:
        """Return a sub-scan of this frame: same deflection, same rotation, a part of the field.

        Parameters
        ----------
        centre : (float, float)
            In the scan plane, x and y in Å.
        size : (float, float)
            Width and height in Å.
        shape : (int, int)
            ``(H, W)`` in pixels.
        dwell_us : float
            0: as in this frame.
        """
        if not np.isclose(size[0] / shape[1], size[1] / shape[0], rtol=1e-3):
            raise StemAeError(f"A sub-scan of {size} Å in {shape} pixels has pixels that are not square.")
        place = (float(centre[0]), float(centre[1]))
        return Frame(max(size), shape, dwell_us or self.dwell_us, place, self.rotation, within=self.within or self)


def unmasked(data: Any) -> NDArray[Any]:
    """Return data as a plain array: what a mask hides is missing, NaN."""
    if np.ma.is_masked(data) and np.issubdtype(np.ma.getdata(data).dtype, np.number):
        return np.asarray(np.ma.filled(np.ma.asarray(data).astype(np.float32), np.nan))
    return np.asarray(data)


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """One complete frame."""

    frame: Frame
    data: NDArray[np.float32] = dataclasses.field(repr=False)
    """``(H, W)`` of the first channel that was on, usually HAADF."""
    time_s: float
    """Seconds since 1970, at the end of the frame; for people and documents: somebody may set that clock."""
    clock_s: float = dataclasses.field(default_factory=time.monotonic)
    """The same moment in seconds of ``time.monotonic()``, for drift and aiming; the present one if not given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", unmasked(self.data))  # the dataclass is frozen


@dataclasses.dataclass(frozen=True, eq=False)
class CameraFrame:
    """One exposure of a camera: a spectrum ``(E,)`` or a pattern ``(H, W)``; or many, with leading axes."""

    data: NDArray[np.float32] = dataclasses.field(repr=False)
    exposure_s: float
    offset: float
    """Calibration of the last axis: of its first channel, in ``unit``."""
    scale: float
    """Per channel."""
    unit: str
    """``"eV"`` for spectra, ``"mrad"`` for patterns."""
    largest: float
    """Largest raw pixel, in counts."""
    clipped: int
    """How many raw pixels share it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", unmasked(self.data))

    @property
    def axis(self) -> FloatArray:
        """Values of the last axis, ``(E,)`` or ``(W,)``."""
        axis: FloatArray = self.offset + self.scale * np.arange(self.data.shape[-1], dtype=np.float64)
        return axis


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the dark-field detector counted under a beam at rest."""

    counts: float
    exposure_s: float
