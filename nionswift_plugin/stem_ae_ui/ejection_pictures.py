"""The two small pictures of the Eject panel: the dark-field trace with the decision, and before and after."""

from __future__ import annotations

import typing

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from stem_ae.manipulate import Exposure
from stem_ae.manipulate.beam import Scan
from stem_ae.manipulate.run import AROUND

Picture = NDArray[np.uint32]

TRACE = (132, 336)
"""Height and width of the trace in points."""
PATCHES = (140, 336)
"""Height and width of before and after."""
_SCALE = 2  # pixels per point: sharp on fine screens, and downscaled on others
_GROUND, _GRID, _TEXT, _SIGNAL, _LEVEL, _EVIDENCE, _DECISION = (
    "#202226", "#3A3D44", "#B9BDC6", "#56B4E9", "#8A8F99", "#F0A020", "#FF4DFF"
)  # fmt: skip
_MARK = 0.75  # Å: radius of the circle around the target
_SMOOTH = 0.25  # Å: less than the probe's width
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 60, 20, 18  # points around the trace; the levels' names stand to its right
_EDGE = 8  # points between words and the picture's edge


def as_argb(image: Image.Image) -> Picture:
    """Return a picture as Swift draws it."""
    pixels = np.full((image.height, image.width, 4), 255, np.uint8)
    pixels[..., :3] = np.asarray(image.convert("RGB"))[..., ::-1]
    return pixels.view(np.uint32)[..., 0]


def _font(size: int) -> typing.Any:
    return ImageFont.load_default(size * _SCALE)


class _Canvas:
    """Draws in points."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self.image = Image.new("RGB", (self.width * _SCALE, self.height * _SCALE), _GROUND)
        self._draw = ImageDraw.Draw(self.image)

    def line(self, points: NDArray[np.float64], color: str, width: float = 1.0) -> None:
        flat = [tuple(point) for point in (np.asarray(points, float) * _SCALE).tolist()]
        self._draw.line(flat, fill=color, width=max(1, round(width * _SCALE)), joint="curve")

    def text(self, x: float, y: float, words: str, color: str = _TEXT, anchor: str = "lm", size: int = 11) -> None:
        self._draw.text((x * _SCALE, y * _SCALE), words, fill=color, anchor=anchor, font=_font(size))

    def circle(self, x: float, y: float, radius: float) -> None:
        box = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(box, outline=_DECISION, width=_SCALE)

    def picture(self) -> Picture:
        return as_argb(self.image.resize((self.width, self.height), Image.Resampling.LANCZOS))


def no_trace(words: str = "The dark-field signal under the beam appears here.") -> Picture:
    """Return an empty trace."""
    canvas = _Canvas(TRACE)
    canvas.text(canvas.width / 2, canvas.height / 2, words, anchor="mm")
    return canvas.picture()


def trace(exposure: Exposure) -> Picture:
    """Return the counts of an exposure over time, its levels, and how far the evidence for the step has come."""
    canvas = _Canvas(TRACE)
    readings = list(exposure.readings)
    if not readings:
        return no_trace("Waiting for the first counts…")
    lengths = np.array([r.exposure_s for r in readings])
    columns = np.minimum(len(readings), 160)
    edges = np.linspace(0, len(readings), columns + 1).astype(int)[:-1]
    seconds = np.add.reduceat(lengths, edges)
    rates = np.add.reduceat(np.array([r.counts for r in readings]), edges) / seconds
    levels = np.array(exposure.settings.levels) * exposure.scale
    end = np.cumsum(seconds)
    top = 1.15 * max(levels.max(), float(np.percentile(rates, 98)))
    right, bottom = canvas.width - _RIGHT, canvas.height - _BOTTOM

    def place(t: NDArray[np.float64], rate: NDArray[np.float64]) -> NDArray[np.float64]:
        x = _LEFT + t / end[-1] * (right - _LEFT)
        return np.column_stack([x, bottom - np.clip(rate / top, 0, 1) * (bottom - _TOP)])

    names = _level_names(levels)
    for level, name in zip(levels, names, strict=True):
        y = place(np.zeros(1), np.array([level]))[0, 1]
        canvas.line(np.array([[_LEFT, y], [right, y]]), _GRID)
        canvas.text(right + 6, y, name, _LEVEL, "lm", 10)
    canvas.line(place(end - seconds / 2, rates), _SIGNAL, 1.4)
    if exposure.outcome is not None:
        canvas.line(np.array([[right, _TOP], [right, bottom]]), _DECISION, 2)
    _heading(canvas, exposure, float(end[-1]))
    return canvas.picture()


def _level_names(levels: NDArray[np.float64]) -> list[str]:
    if levels[1] > levels[0]:
        return ["as it is", "moved"]
    return ["as it is", "one gone", "two gone"][: len(levels)]


def _heading(canvas: _Canvas, exposure: Exposure, seconds: float) -> None:
    """Write signal, time, and a bar of the evidence, or the decision."""
    canvas.text(_LEFT, 10, f"{exposure.settings.levels[0] * exposure.scale / 1e6:.2f} million/s expected")
    canvas.text(_LEFT, canvas.height - 8, "0")
    canvas.text(canvas.width - _RIGHT, canvas.height - 8, f"{seconds:.3g} s", anchor="rm")
    edge = canvas.width - _EDGE
    if exposure.outcome is not None:
        canvas.text(edge, 10, str(exposure.outcome), _DECISION, "rm", 12)
        return
    share = min(exposure.step.statistic / exposure.step.threshold, 1.0) if exposure.step.threshold else 0.0
    x0, x1 = edge - 100, edge
    canvas.text(x0 - 6, 10, "step?", anchor="rm")
    canvas.line(np.array([[x0, 10], [x1, 10]]), _GRID, 6)
    if share > 0.01:
        canvas.line(np.array([[x0, 10], [x0 + share * (x1 - x0), 10]]), _EVIDENCE, 6)


def _smooth(scan: Scan) -> NDArray[np.float64]:
    """Return the detected fraction of the beam: few electrons per pixel are shown as columns, not as grain."""
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(scan.image / scan.electrons, _SMOOTH / scan.sampling)
    return smooth


def before_and_after(before: Scan | None, after: Scan | None) -> Picture:
    """Return two patches of the specimen beside each other, on the same scale of grey."""
    canvas = _Canvas(PATCHES)
    side = PATCHES[0] - 22
    scans = [_smooth(scan) if scan is not None else None for scan in (before, after)]
    shown = [s for s in scans if s is not None]
    low, high = (np.percentile(np.concatenate([s.ravel() for s in shown]), (1, 99.7)) if shown else (0.0, 1.0))
    for k, (name, scan) in enumerate(zip(("before", "after"), scans, strict=True)):
        left = canvas.width / 2 + (k - 1) * (side + 8) + 4
        canvas.text(left, 9, name)
        if scan is None:
            canvas.line(np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * side + [left, 18], _GRID)
            continue
        grey = np.clip((scan - low) / max(high - low, 1e-12), 0, 1) * 255
        patch = Image.fromarray(grey.astype(np.uint8)).resize((side * _SCALE,) * 2, Image.Resampling.BICUBIC)
        canvas.image.paste(patch, (round(left * _SCALE), 18 * _SCALE))
        canvas.circle(left + side / 2, 18 + side / 2, side * _MARK / AROUND)
    return canvas.picture()
