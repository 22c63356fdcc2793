"""Pictures of what was found: rings on the atoms, the uncertainty map, a scale bar."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from stem_ae.atoms import Atoms2D
from stem_ae.palette import color

BACKGROUND, INK = "#15181c", "#e8eaed"
RING_RADIUS = 0.6
"""Å: less than half of the shortest bond, so that rings do not overlap."""


def found(
    image: ArrayLike, atoms: Atoms2D, uncertainty: ArrayLike, title: str = "", note: str = "",
    radius: float = RING_RADIUS,
) -> Figure:  # fmt: skip
    """Return a figure with the rings on the left and the ensemble's uncertainty on the right.

    Parameters
    ----------
    image : (H, W) array
        The frame.
    atoms : Atoms2D
        What was found in it.
    uncertainty : (H, W) array
        Standard deviation over the ensemble.
    title, note : str
        A line above and a line below.
    radius : float
        Of the rings, in the unit of the positions.
    """
    height, width = np.shape(image)
    size = 6.4 * np.array([2.12 * width, height]) / max(width, height, 1)
    figure = dark_figure(max(float(size[0]), 6.0), float(size[1]) + 0.9)
    left, right = figure.subplots(1, 2)
    rings(left, image, atoms, radius=radius)
    uncertainty_map(right, uncertainty)
    figure.suptitle(title, color=INK, fontsize=11)
    if note:
        figure.supxlabel(note, color=INK, fontsize=8)
    return figure


def dark_figure(width: float, height: float, layout: Literal["compressed"] | None = "compressed") -> Figure:
    """Return an empty figure, in inches, that needs no screen."""
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def rings(
    axes: Axes, image: ArrayLike, atoms: Atoms2D, legend: bool = True, radius: float = RING_RADIUS
) -> None:
    """Draw the image, a scale bar and a ring on each atom, coloured by class; ``radius`` is in the positions' unit."""
    show_image(axes, image, atoms.sampling)
    centres = atoms.positions_px
    diameters = 2 * radius / np.array(atoms.step)
    for k, (name, number) in enumerate(atoms.counts().items()):
        xy = centres[atoms.labels == k]
        axes.add_collection(
            EllipseCollection(
                np.full(len(xy), diameters[1]), np.full(len(xy), diameters[0]), np.zeros(len(xy)), units="xy",
                offsets=xy, offset_transform=axes.transData, facecolors="none", edgecolors=color(k), linewidths=0.9,
            )
        )  # fmt: skip
        axes.plot([], [], "o", mfc="none", mec=color(k), label=f"{name} {number}")
    if legend:
        axes.legend(
            loc="upper right", fontsize=8, framealpha=0.7, facecolor=BACKGROUND, edgecolor="none", labelcolor=INK
        )


def uncertainty_map(axes: Axes, uncertainty: ArrayLike) -> None:
    """Draw the standard deviation over the ensemble, on a scale that does not depend on the frame."""
    drawn = axes.imshow(np.asarray(uncertainty), cmap="magma", vmin=0.0, vmax=0.5, interpolation="nearest")
    axes.set_axis_off()
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("uncertainty: std of the probability over the ensemble", color=INK, fontsize=8)
    bar.ax.tick_params(colors=INK, labelsize=7)


def show_image(axes: Axes, image: ArrayLike, sampling: tuple[float, float] | None) -> None:
    """Draw a frame in grey, its darkest and brightest 0.3 % clipped, with a scale bar where the sampling is known."""
    pixels = np.asarray(image, dtype=float)
    low, high = np.nanpercentile(pixels, [0.3, 99.7])
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.autoscale(False)  # rings at the border do not make the view wider than the image
    axes.set_axis_off()
    if sampling is None:
        return
    axes.set_aspect(sampling[0] / sampling[1])
    height, width = pixels.shape
    length = scale_bar(width * sampling[1])
    x, y = 0.04 * width, 0.95 * height
    outline = [patheffects.withStroke(linewidth=5, foreground=BACKGROUND)]
    axes.plot([x, x + length / sampling[1]], [y, y], color=INK, linewidth=3, path_effects=outline)
    text = f"{length / 10:g} nm" if length >= 5 else f"{length:g} Å"
    outline = [patheffects.withStroke(linewidth=2.5, foreground=BACKGROUND)]
    axes.text(x, y - 0.02 * height, text, color=INK, fontsize=9, va="bottom", path_effects=outline)


def scale_bar(width: float) -> float:
    """Return the round length, in Å, nearest below a quarter of the width (Å)."""
    decade = 10 ** np.floor(np.log10(width / 4))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= width / 4))


def save(figure: Figure, path: pathlib.Path, dpi: int = 130) -> pathlib.Path:
    """Write a figure as PNG and return the path."""
    figure.savefig(path, dpi=dpi, facecolor=figure.get_facecolor())
    return path


def save_map(path: pathlib.Path, values: ArrayLike, sampling: tuple[float, float] | None) -> pathlib.Path:
    """Write a map, such as the uncertainty, as 32-bit TIFF that carries its sampling if known, and return the path."""
    import tifffile

    data: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
    if sampling is None:
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "YX"})
        return path
    dy, dx = sampling
    metadata: dict[str, Any] = {"unit": "nm", "axes": "YX"}
    tifffile.imwrite(path, data, imagej=True, resolution=(10.0 / dx, 10.0 / dy), metadata=metadata)
    return path
