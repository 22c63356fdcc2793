"""A frame as the usual probe would have shown it, from one that is out of focus, astigmatic or wide.

Networks know images taken with usual probes. Where today's probe is known, as from a fit of the forward model, its
transfer function is divided out, and the usual one's put in its place, as far as the noise allows: the filter of Wiener
(*Extrapolation, Interpolation, and Smoothing of Stationary Time Series*, 1949).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stem_ae.elit.preprocess import Image
from stem_ae.errors import StemAeError
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe

USUAL = GaussianProbe(0.45)
REACH = 6.0  # Å: so far from a pixel others have a say in it; also beyond the frame's edge, where it is mirrored


@dataclasses.dataclass(frozen=True)
class Refocus:
    """The filter.

    Parameters
    ----------
    probe : Probe
        With which frames are taken.
    noise : float
        Power of the noise beside that of the specimen, of a point probe's image: less of it sharpens more.
    """

    probe: Probe
    noise: float

    def __call__(self, image: Image, sampling: tuple[float, float]) -> Image:
        """Return an ``(H, W)`` image with ``sampling`` in Å per pixel, ``(y, x)``, as the usual probe shows it."""
        pad = [(min(round(REACH / d), n - 1),) * 2 for n, d in zip(image.shape, sampling, strict=True)]
        padded = np.pad(image, pad, mode="reflect")
        shape = tuple(fft.next_fast_len(n, real=True) for n in padded.shape)
        padded = np.pad(padded, [(0, n - m) for n, m in zip(shape, padded.shape, strict=True)], mode="edge")
        sharp = fft.irfft2(fft.rfft2(padded) * _gain(self, shape, sampling), shape)
        (top, _), (left, _) = pad
        result: Image = sharp[top : top + image.shape[0], left : left + image.shape[1]].astype(np.float32)
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Refocus | None:
        """Return what ``dataclasses.asdict`` was made of; ``None`` stays that."""
        if values is None:
            return None
        facts = dict(values["probe"])
        try:
            if "sigma" in facts:
                return cls(GaussianProbe(**facts), values["noise"])
            return cls(AberratedProbe(**facts | {"astigmatism": tuple(facts["astigmatism"])}), values["noise"])
        except (TypeError, KeyError, ValueError) as error:
            raise StemAeError(f"The model's refocus has an impossible probe ({error}).") from error


@functools.lru_cache(maxsize=8)
def _gain(refocus: Refocus, shape: tuple[int, int], sampling: tuple[float, float]) -> NDArray[np.float32]:
    """Return by how much each frequency of ``rfft2`` is multiplied."""
    fy, fx = fft.fftfreq(shape[0], sampling[0])[:, None], fft.rfftfreq(shape[1], sampling[1])[None, :]
    transfer = refocus.probe.otf(fx, fy)
    gain: NDArray[np.float32] = (USUAL.otf(fx, fy) * transfer / (transfer**2 + refocus.noise)).astype(np.float32)
    return gain
