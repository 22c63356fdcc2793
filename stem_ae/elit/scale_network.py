"""The network that estimates the width of an image's columns in pixels, for a model without material and sampling.

A small network sees the image at several magnifications, each half the one before, cut into squares. For each square it
says how probable each width is; squares and magnifications are taken together as independent opinions about one number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from stem_ae.elit import random_columns
from stem_ae.elit.scale import Scale
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

SQUARE = 128  # pixels
WIDTHS = np.geomspace(0.5, 8.0, 33)
"""Pixels: the tabulated widths (standard deviations), eight to an octave."""
_LEVELS = 6  # magnifications at most
_LOCAL = 16.0  # pixels: slower variations are the specimen's thickness, not columns
_MOST_SQUARES = 9  # of one magnification
_WIDER = float(np.log(8))  # the last width stands for the octave above, as in training
_FEWEST = 24  # widths of a column in the shorter side of an image: with fewer there are only a few blobs
_LEAST = float(np.log(1e-4))  # logarithm of the least probability that one square gives to any width
_RELIABLE = 0.25  # squares overlap and their errors are correlated: this fraction of their information is independent


class ScaleNet(nn.Module):
    """Convolutions that halve the square repeatedly, followed by maximum and mean pooling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [4, width, width * 3 // 2, 2 * width, 3 * width]
        for before, after in itertools.pairwise(channels):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.1, True),
                nn.Conv2d(after, after, 3, padding=1, stride=2, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.1, True),
            ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(2 * channels[-1], 64), nn.LeakyReLU(0.1, True), nn.Linear(64, len(WIDTHS)))

    def forward(self, squares: Tensor) -> Tensor:
        """Return logits ``(B, widths)`` for normalised squares ``(B, 1, 128, 128)``."""
        seen = self.layers(functional.pixel_unshuffle(squares, 2))  # a quarter of the arithmetic
        result: Tensor = self.head(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1))
        return result


def read_scale(network: ScaleNet, image: Image) -> Scale:
    """Return the probabilities of the width of an image's columns.

    Parameters
    ----------
    network : ScaleNet
        Trained.
    image : (H, W) float32 array
        With bad pixels repaired.

    Raises
    ------
    StemAeError
        If the image is too small to say anything.
    """
    if min(image.shape) < SQUARE // 4:
        raise StemAeError(
            f"The image has {image.shape[1]} x {image.shape[0]} pixels: the columns' size is read from the image, "
            f"which takes at least {SQUARE // 4} x {SQUARE // 4}."
        )
    widest = float(WIDTHS[-1]) * 2 ** (_LEVELS - 1)
    widths = np.geomspace(WIDTHS[0], widest, 1 + round(8 * np.log2(widest / WIDTHS[0])))
    logarithm = np.zeros(len(widths))
    level_image = image
    for level in range(_LEVELS):
        squares = _squares(level_image)
        with torch.inference_mode():
            logits = torch.log_softmax(network(torch.from_numpy(squares)), 1).double().numpy()
        logits[:, -1] -= _WIDER
        first = 8 * level
        # At this magnification the first and last width stand for all that are narrower and wider.
        opinion = logits[:, np.clip(np.arange(len(widths)) - first, 0, len(WIDTHS) - 1)]
        opinion = np.maximum(opinion, _LEAST)
        logarithm += _RELIABLE * opinion.sum(0) if len(squares) > 1 else opinion.sum(0)
        if min(level_image.shape) < SQUARE // 2 + 2:
            break
        level_image = _halved(level_image)
    logarithm[widths > max(min(image.shape) / _FEWEST, WIDTHS[0])] = -np.inf
    probability = np.exp(logarithm - logarithm.max())
    return Scale(widths, probability / probability.sum())


def _squares(image: Image) -> NDArray[np.float32]:
    """Return normalised squares ``(B, 1, 128, 128)`` spread over the image; a small image is mirrored at its edges."""
    image = np.pad(image, [(0, max(SQUARE - n, 0)) for n in image.shape], mode="symmetric")
    places = [np.linspace(0, n - SQUARE, min(int(np.ceil(n / SQUARE)), 3)).astype(int) for n in image.shape]
    cut = [image[r : r + SQUARE, c : c + SQUARE] for r in places[0] for c in places[1]][:_MOST_SQUARES]
    return np.stack([normalised(square) for square in cut])[:, None]


def normalised(square: Image) -> Image:
    """Return a square less its local mean (the thickness), scaled to unit deviation without outliers."""
    level = ndimage.gaussian_filter(square.astype(np.float32), _LOCAL, mode="nearest", truncate=3.0)
    flat = square - level
    low, high = np.percentile(flat, [16, 84])
    spread = max((high - low) / 2, 1e-6 * float(np.abs(level).max()) + 1e-12)
    result: Image = np.clip(flat / spread, -8, 12).astype(np.float32)
    return result


def _halved(image: Image) -> Image:
    rows, columns = (n // 2 * 2 for n in image.shape)
    cut = image[:rows, :columns]
    result: Image = ((cut[::2, ::2] + cut[1::2, ::2] + cut[::2, 1::2] + cut[1::2, 1::2]) / 4).astype(np.float32)
    return result


# --- training ---------------------------------------------------------------------------------------------------------


def example(rng: np.random.Generator) -> tuple[Image, float]:
    """Return a normalised square ``(128, 128)`` of a random image, and the width of its columns in pixels.

    Some are wider than the tabulated widths: they count as the widest.
    """
    width = float(np.exp(rng.uniform(np.log(WIDTHS[0]), np.log(2 * WIDTHS[-1]))))
    binned = 2 if rng.random() < 0.4 and width < 8 else 1  # smaller magnifications are means of pixels
    sampling = 0.5 / (width * binned)
    shot = random_columns.scene((SQUARE * binned + 8) * sampling, rng, 0.5, sampling)
    image = _halved(shot.counts) if binned == 2 else shot.counts
    if rng.random() < 0.5:
        image = ndimage.zoom(image, (1, rng.uniform(0.93, 1.07)), order=1)
    image = np.pad(image, [(0, max(SQUARE - n, 0)) for n in image.shape], mode="symmetric")
    return normalised(image[:SQUARE, :SQUARE]), min(width, float(WIDTHS[-1]))


def train(
    squares: NDArray[np.float16], widths: FloatArray, steps: int, seed: int,
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> ScaleNet:
    """Train the network on squares ``(N, 128, 128)`` with known widths ``(N,)`` in pixels."""
    torch.manual_seed(seed)
    network = ScaleNet().train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    rng = np.random.default_rng(seed)
    distance = np.log(WIDTHS[None, :] / widths[:, None]) / np.log(WIDTHS[1] / WIDTHS[0])
    wanted = np.exp(-(distance**2) / 2)
    target = torch.from_numpy((wanted / wanted.sum(1, keepdims=True)).astype(np.float32))
    losses: list[float] = []
    for step in range(1, steps + 1):
        chosen = rng.integers(len(squares), size=24)
        batch = np.rot90(squares[chosen].astype(np.float32), int(rng.integers(4)), (1, 2))
        batch = batch[:, :, ::-1] if rng.integers(2) else batch
        logits = network(torch.from_numpy(np.ascontiguousarray(batch))[:, None])
        loss = -(target[chosen] * torch.log_softmax(logits, 1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            progress(step, steps, float(np.mean(losses[-100:])))
    return network.eval()
