"""The model "any" on real images with labels, untuned: recall, precision and F1 of every image and set.

    python benchmarks/any_labelled.py REAL LABELLED

REAL holds images and, in ``truth/``, a CSV of column positions for some of them; LABELLED holds a folder for each set,
with a CSV beside every image. Neither is part of this project. Nothing but the image is given to the model; what is
found is compared one to one with the labels. With the F1 of a set stands its 95 % interval over 2000 bootstrap samples
of its images. Below it: local maxima after a Gaussian filter, with the width *and* the threshold that are best for the
set in hindsight, which no user knows.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import time

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from stem_ae import elit, imageio

FloatArray = NDArray[np.float64]

REAL = {  # file, within how many pixels, how many pixels of the border do not count
    "AtomSegNet_10_dso_8nm.png": (12, 30),
    "AtomSegNet_Si110_5nm_25us.png": (5, 12),
    "CdTe_twin_HAADF26.dm3": (3, 12),
    "TEMUL_Au_NP_Atom_Lattice.hdf5": (9, 12),
    "TEMUL_PTO-SRO_aligned.hspy": (6, 12),
}
DATASETS = {"TEMUL_Au_NP_Atom_Lattice.hdf5": "image_data0"}
SETS = ("pt_nc", "re_bpy", "pt_porphyrin")
SET_TOLERANCE = 5


@dataclasses.dataclass(frozen=True)
class Score:
    """True positives, false positives, false negatives."""

    right: int
    wrong: int
    missed: int

    @property
    def recall(self) -> float:
        """Share of the labels that were found."""
        return self.right / max(self.right + self.missed, 1)

    @property
    def precision(self) -> float:
        """Share of what was found that has a label."""
        return self.right / max(self.right + self.wrong, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.right / max(2 * self.right + self.wrong + self.missed, 1)

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.wrong + other.wrong, self.missed + other.missed)


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """An image and the columns that people see in it, x and y in pixels."""

    name: str
    image: FloatArray
    truth: FloatArray
    tolerance: float
    border: float = 0.0

    def score(self, found: FloatArray) -> Score:
        """Compare positions ``(N, 2)`` with the labels."""
        last = np.array(self.image.shape[::-1]) - 1 - self.border
        known, new = (((p >= self.border) & (p <= last)).all(1) for p in (self.truth, found))
        if not len(found):
            return Score(0, 0, int(known.sum()))
        distance = np.hypot(*(found[:, None] - self.truth[None]).transpose(2, 0, 1))
        i, j = linear_sum_assignment(np.where(distance <= self.tolerance, distance, 1e6))
        pairs = distance[i, j] <= self.tolerance
        matched, hit = np.zeros(len(found), bool), np.zeros(len(self.truth), bool)
        matched[i[pairs]], hit[j[pairs]] = True, True
        return Score(int((hit & known).sum()), int((new & ~matched).sum()), int((known & ~hit).sum()))


def positions(path: pathlib.Path) -> FloatArray:
    """Return the last two numbers of every line that has them."""
    found = []
    for row in csv.reader(path.read_text().splitlines()):
        try:
            found.append([float(row[-2]), float(row[-1])])
        except (ValueError, IndexError):
            continue
    return np.array(found).reshape(-1, 2)


def crystals(folder: pathlib.Path) -> list[Labelled]:
    """Return the crystals with a truth."""
    def one(name: str) -> Labelled:
        image = imageio.read(folder / name, dataset=DATASETS.get(name)).frames[0]
        return Labelled(name, image, positions(folder / "truth" / f"{stem(name)}.csv"), *REAL[name])

    return [one(name) for name in REAL]


def stem(name: str) -> str:
    """Return a file's name without its suffix."""
    return name.rpartition(".")[0]


def labelled_set(folder: pathlib.Path) -> list[Labelled]:
    """Return the images of a set that have a CSV beside them."""
    images = []
    for table in sorted(folder.glob("*.csv")):
        path = next(p for p in (table.with_suffix(".tif"), table.with_suffix(".png")) if p.exists())
        array = np.asarray(Image.open(path), dtype=float)
        array = array[..., :3].mean(-1) if array.ndim == 3 else array
        images.append(Labelled(f"{folder.name}/{path.name}", array, positions(table), SET_TOLERANCE))
    return images


def interval(scores: list[Score]) -> tuple[float, float]:
    """Return the 95 % interval of the F1 of a set."""
    rng = np.random.default_rng(0)
    samples = rng.integers(len(scores), size=(2000, len(scores)))
    drawn = [sum((scores[k] for k in sample), Score(0, 0, 0)).f1 for sample in samples]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def best_maxima(images: list[Labelled]) -> Score:
    """Return the score of local maxima with the filter and the threshold that suit these images best."""
    best = Score(0, 0, 1)
    for width in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
        peaks = []
        for one in images:
            smooth = ndimage.gaussian_filter(one.image, width) - ndimage.gaussian_filter(one.image, 3 * width)
            smooth = smooth / (1.4826 * np.median(np.abs(smooth - np.median(smooth))))
            top = smooth == ndimage.maximum_filter(smooth, round(2 * width) | 1)
            rows, columns = np.nonzero(top)
            peaks.append((np.column_stack([columns, rows]).astype(float), smooth[rows, columns]))
        for threshold in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0):
            chosen = (one.score(xy[height > threshold]) for one, (xy, height) in zip(images, peaks, strict=True))
            best = max(best, sum(chosen, Score(0, 0, 0)), key=lambda score: score.f1)
    return best


def row(name: str, score: Score, more: str = "") -> None:
    """Print one line of the table."""
    print(f"| {name} | {score.recall:.3f} | {score.precision:.3f} | {score.f1:.3f} | {more} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=pathlib.Path)
    parser.add_argument("labelled", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ensemble = elit.load("any")
    print(f"any, version {ensemble.version}\n\n| image | recall | precision | F1 | remarks |\n|---|---|---|---|---|")
    for images in ([one] for one in crystals(arguments.real)):
        row(images[0].name, *look(ensemble, images[0]))
        row("... local maxima, best in hindsight", best_maxima(images))
    for name in SETS:
        images = labelled_set(arguments.labelled / name)
        scores = []
        for one in images:
            score, remark = look(ensemble, one)
            scores.append(score)
            row(one.name, score, remark)
        low, high = interval(scores)
        row(f"**{name}**", sum(scores, Score(0, 0, 0)), f"95 % interval of F1: {low:.2f} to {high:.2f}")
        row("... local maxima, best in hindsight", best_maxima(images))


def look(ensemble: elit.Ensemble, one: Labelled) -> tuple[Score, str]:
    """Return the score of an image, and a remark."""
    start = time.process_time()
    prediction = ensemble.predict(one.image)
    seconds = time.process_time() - start
    return one.score(prediction.atoms.positions), f"columns {prediction.width:.1f} px wide, {seconds:.2f} CPU-s"


if __name__ == "__main__":
    main()
