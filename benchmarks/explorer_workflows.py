"""The literature's three workflows as targets of the explorer, on three specimens: what is found, how well, how surely.

A workflow turns the survey image into a map: the abundance or latent variable that parts the image most clearly in two
(the automatic pick). It is what the explorer then looks for, one value a point, in batches of 10 from one point; with
position alone (kernels x acquisition functions x length scales, the literature's table) and with our own surrogates.

The feature is what Otsu's threshold of the map selects; a place counts as found where the predicted map, measured
places included, lies beyond that threshold. SSIM compares predicted map and target (values around atoms are spread to
the nearest atom's surroundings first). Uncertainty is the mean standard deviation in units of the target's. How well
the map itself shows what the specimen holds is the area under the ROC curve against the truth: pillar; domain or wall,
whichever it shows (the domains are each other's mirror images, which a rotationally invariant variable cannot tell
apart); Si.

    python benchmarks/explorer_workflows.py --quick           # a few minutes: one length scale, 60 points
    nice python benchmarks/explorer_workflows.py --csv out.csv    # everything; every run also as a line of a table
    python benchmarks/explorer_workflows.py --report out.csv more.csv    # the tables of runs before
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import time

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from stem_ae.descriptors.windows import Windows
from stem_ae.descriptors.workflows import FourierUnmixing, InvariantLatent, pick
from stem_ae.explore import Explorer
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.oxides import domain_walls, iron_displacement, nio_lsmo
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene

KERNELS, ACQUISITIONS, LENGTHS = ("rbf", "matern52", "rq"), ("ucb", "ei", "pi"), (1, 5, 20)  # lengths in steps
WORKFLOWS = ("1 nmf", "1 svd", "1 n-findr", "2 windows", "2 fourier", "3 atoms")
NUMBERS = ("found", "false", "ssim", "uncertainty")
STEP, BATCH, COMPONENTS, LATENT, EPOCHS = 8, 10, 4, 2, 15


@dataclasses.dataclass(frozen=True)
class Sample:
    """A specimen's image and what is known of it."""

    name: str
    image: np.ndarray
    sampling: float
    window: int
    patch: int
    """Around atoms, in pixels."""
    truths: dict
    """Which places (x, y in Å) show a feature, by its name."""


def samples(seed):
    """Return the three specimens, imaged with shot noise."""
    film, walls, sheet = nio_lsmo(seed=seed), domain_walls(seed=seed), graphene((80.0, 80.0), silicon=0.02, seed=seed)
    nickel = cKDTree(film.positions[film.numbers == 28, :2])
    silicon = cKDTree(sheet.positions[sheet.numbers == 14, :2])
    along = lambda xy: iron_displacement(xy, seed=seed)[:, 1]  # noqa: E731
    half = np.abs(iron_displacement(np.zeros(2), seed=seed)[0]) / 2
    return (
        Sample("NiO-LSMO", survey(film, 0.4, seed), 0.4, 32, 32, {"pillar": lambda xy: nickel.query(xy)[0] < 2.5}),
        Sample("domain walls", survey(walls, 0.4, seed), 0.4, 48, 24,
               {"domain": lambda xy: along(xy) > 0, "wall": lambda xy: np.abs(along(xy)) < half}),
        Sample("Si-graphene", survey(sheet, 0.2, seed), 0.2, 24, 24, {"Si": lambda xy: silicon.query(xy)[0] < 0.75}),
    )  # fmt: skip


def survey(specimen, sampling, seed, electrons=200.0):
    """Return an image with ``electrons`` detected in a pixel."""
    shape = tuple(int(length / sampling) for length in specimen.extent[::-1])
    weights = cross_section(specimen.numbers, "HAADF")
    fraction = expected_fraction(specimen.positions[:, :2], weights, shape, sampling, GaussianProbe(0.5))
    return np.random.default_rng(seed).poisson(fraction * electrons / fraction.mean()).astype(float)


def around_columns(sample):
    """Return windows around atomic columns: maxima of the image, smoothed as much as the probe is wide."""
    smooth = ndimage.gaussian_filter(sample.image, 0.5 / sample.sampling)
    found = peak_local_max(smooth, min_distance=max(int(1.0 / sample.sampling), 1), exclude_border=sample.patch // 2)
    return Windows(sample.image, found, sample.patch)


def analyse(sample, workflow, seed):
    """Return windows and abundances or latent variables ``(k, c)``."""
    number, how = workflow.split()
    if number == "1":
        windows = Windows.regular(sample.image, sample.window, STEP)
        found = FourierUnmixing.fit(windows, how.replace("-", ""), COMPONENTS, seed)
    else:
        windows = around_columns(sample) if how == "atoms" else Windows.regular(sample.image, sample.window, STEP)
        found = InvariantLatent.fit(windows, LATENT, fourier=how == "fourier", epochs=EPOCHS, seed=seed)
    return windows, np.concatenate([found.transform(block) for block in windows.blocks(1024)])


def agreement(sample, windows, values):
    """Return the largest area under the ROC curve, and the feature it is of, whichever side of it is high."""
    from sklearn.metrics import roc_auc_score

    places = windows.centres[:, ::-1] * sample.sampling
    areas = {name: roc_auc_score(truth(places), values) for name, truth in sample.truths.items()}
    return max((max(area, 1 - area), name) for name, area in areas.items())


def upright(values):
    """Return values with the smaller of the two parts they fall into on the high side."""
    return values if (values > threshold_otsu(values)).mean() < 0.5 else values.max() + values.min() - values


def explore(sample, windows, target, points, seed, **settings):
    """Return found, false alarms, SSIM and mean uncertainty at each number of points."""
    explorer = Explorer(
        sample.image, sampling=sample.sampling, patch=windows.size, candidates=windows.centres, seed=seed, **settings
    )
    rows = {tuple(point): k for k, point in enumerate(windows.centres.tolist())}
    threshold = threshold_otsu(target)
    feature = target > threshold
    spread = spreader(windows)
    tell = lambda asked: explorer.tell(asked, target[[rows[tuple(p)] for p in asked.tolist()]])  # noqa: E731
    tell(explorer.ask(1))
    history = {}
    for goal in points:
        while (left := goal - len(explorer.points)) > 0:
            tell(explorer.ask(min(BATCH, left)))
        mean, std = by_candidate(explorer, explorer.mean), by_candidate(explorer, explorer.std)
        mean[explorer.measured] = target[explorer.measured]
        found = mean > threshold
        history[goal] = {
            "found": (found & feature).sum() / feature.sum(), "false": (found & ~feature).sum() / (~feature).sum(),
            "ssim": structural_similarity(spread(target), spread(mean), data_range=float(np.ptp(target))),
            "uncertainty": std.mean() / target.std(),
        }
    return history


def by_candidate(explorer, values):
    """Return a map's values in the candidates' order."""
    if values.ndim == 1:
        return values.copy()
    c = explorer.candidates
    return values[np.unique(c[:, 0], return_inverse=True)[1], np.unique(c[:, 1], return_inverse=True)[1]].copy()


def spreader(windows):
    """Return what makes a map of one value per window: the grid itself, or the nearest window's value."""
    if len(windows.map_shape) == 2:
        return windows.as_map
    low, high = windows.centres.min(axis=0), windows.centres.max(axis=0)
    pixels = np.stack(np.mgrid[low[0] : high[0] : 4, low[1] : high[1] : 4], axis=-1)
    nearest = cKDTree(windows.centres).query(pixels)[1]
    return lambda values: values[nearest]


def settings_of(sample, windows, lengths):
    """Yield name and settings of every explorer that is compared."""
    step = STEP * sample.sampling
    if len(windows.map_shape) == 1:  # atoms: their mean distance
        step = sample.sampling * np.sqrt(np.prod(np.ptp(windows.centres, axis=0)) / len(windows))
    for kernel, acquisition, length in itertools.product(KERNELS, ACQUISITIONS, lengths):
        name = {"surrogate": "gp", "kernel": kernel, "acquisition": acquisition, "length": length}
        yield name, {"surrogate": "gp", "kernel": kernel, "acquisition": acquisition, "length_scale": length * step}
    for surrogate, acquisition in itertools.product(("gp", "descriptor"), ("ei", "uncertainty")):
        name = {"surrogate": surrogate, "kernel": "matern52", "acquisition": acquisition, "length": "learnt"}
        yield name, {"surrogate": surrogate, "acquisition": acquisition}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--points", type=int, nargs="*", default=[50, 100])
    parser.add_argument("--specimens", nargs="*", default=["NiO-LSMO", "domain walls", "Si-graphene"])
    parser.add_argument("--workflows", nargs="*", default=WORKFLOWS)
    parser.add_argument("--quick", action="store_true", help="one length scale, 60 points")
    parser.add_argument("--targets", action="store_true", help="only how well the workflows' maps show the feature")
    parser.add_argument("--csv", help="where every run becomes a line")
    parser.add_argument("--report", nargs="*", help="print the tables of such files, run nothing")
    options = parser.parse_args()
    if options.report:
        report([line for path in options.report for line in read(path)])
        return
    torch.set_num_threads(1)
    points, lengths = ([60], (5,)) if options.quick else (options.points, LENGTHS)
    lines = []
    for seed in range(options.seeds):
        for sample, workflow in itertools.product(samples(seed), options.workflows):
            if sample.name not in options.specimens:
                continue
            before = time.process_time()
            windows, latent = analyse(sample, workflow, seed)
            target = upright(pick(latent))
            area, shows = agreement(sample, windows, target)
            best, shows_best = max(agreement(sample, windows, column) for column in latent.T)
            about = {"seed": seed, "specimen": sample.name, "workflow": workflow, "candidates": len(windows),
                     "feature": round(float((target > threshold_otsu(target)).mean()), 3),
                     "auc": round(area, 3), "of": shows, "best": round(best, 3), "best_of": shows_best}  # fmt: skip
            print(about, f"{time.process_time() - before:.0f} CPU-s", flush=True)
            for name, settings in () if options.targets else settings_of(sample, windows, lengths):
                share = {"feature": min(max(about["feature"], 0.01), 0.5)}
                for count, result in explore(sample, windows, target, points, seed, **settings, **share).items():
                    numbers = {key: round(float(value), 3) for key, value in result.items()}
                    lines.append({**about, **name, "points": count, **numbers})
                if options.csv:
                    write(options.csv, lines)
    report(lines)


def read(path):
    """Return the lines of a file that was written before."""
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line |= {"points": int(line["points"])} | {name: float(line[name]) for name in NUMBERS}
    return lines


def write(path, lines):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def report(lines):
    """Print the table of the literature by target, then by setting, then our own surrogates."""
    for count in sorted({line["points"] for line in lines}):
        some = [line for line in lines if line["points"] == count]
        table = [line for line in some if line["length"] != "learnt"]
        print(f"\n{count} points, position alone, all kernels x acquisition functions x length scales")
        summary("specimen and workflow", table, lambda line: (line["specimen"], line["workflow"]))
        for key in ("kernel", "acquisition", "length"):
            summary(key, table, lambda line, key=key: (str(line[key]),))
        print(f"\n{count} points, length scales learnt")
        learnt = [line for line in some if line["length"] == "learnt"]
        summary("surrogate", learnt, lambda line: (line["surrogate"], line["acquisition"]))
        summary("specimen and workflow, descriptor uncertainty",
                [line for line in learnt if (line["surrogate"], line["acquisition"]) == ("descriptor", "uncertainty")],
                lambda line: (line["specimen"], line["workflow"]))


def summary(title, lines, key):
    """Print, for each group: found (median, lowest, share above half), false, SSIM (median, best), uncertainty."""
    print(f"\n| {title} | found | lowest | above half | false | SSIM | best SSIM | uncertainty |\n|" + "---|" * 8)
    for group in sorted({key(line) for line in lines}):
        of = {name: np.array([line[name] for line in lines if key(line) == group]) for name in NUMBERS}
        print(f"| {' '.join(group)} | {np.median(of['found']):.2f} | {of['found'].min():.2f} | "
              f"{(of['found'] > 0.5).mean():.2f} | {np.median(of['false']):.2f} | {np.median(of['ssim']):.2f} | "
              f"{of['ssim'].max():.2f} | {np.median(of['uncertainty']):.2f} |")


if __name__ == "__main__":
    main()
