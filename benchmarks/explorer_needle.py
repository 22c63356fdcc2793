"""Measure how fast a needle-like property is found and predicted, and how truthful the intervals are.

The specimen is an assembly of nanoparticles; the property is like an edge plasmon that is strong where two edges face
each other across a gap: 2 % of the 64x64 candidates matter. Random choice, and PCA(5) + Gaussian process (Matérn 5/2,
scikit-learn, expected improvement), run on the same specimens from the same ten random points.

    python benchmarks/explorer_needle.py --seeds 10 --surrogates descriptor dkl auto
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import norm

from stem_ae.descriptors.windows import Windows
from stem_ae.explore import Explorer

PATCH, SIZE, START, POINTS = 16, 79, 10, 100


def particles(rng, count=4):
    found, tries = [], 0
    while len(found) < count:
        tries += 1
        if tries % 1000 == 0:  # no room left: begin anew
            found = []
        radius = rng.uniform(6, 12)
        centre = rng.uniform(8 + 0.6 * radius, SIZE - 8 - 0.6 * radius, 2)
        if all(np.hypot(*(centre - c)) > radius + r + 1 for c, r in found):
            found.append((centre, radius))
    return found


def specimen(seed):
    """Return image (projected thickness, 2 % noise) and property, both (79, 79)."""
    found = particles(np.random.default_rng(seed))
    y, x = np.mgrid[:SIZE, :SIZE]
    radial = [np.hypot(y - c[0], x - c[1]) for c, _ in found]
    thickness = sum(np.sqrt(np.clip(r**2 - d**2, 0, None)) for d, (_, r) in zip(radial, found, strict=True))
    image = ndimage.gaussian_filter(thickness, 0.8)
    image = image / image.max() + np.random.default_rng(seed + 1000).normal(0, 0.02, image.shape)
    fields = np.stack([np.exp(-((d - r) ** 2) / (2 * 3.0**2)) for d, (_, r) in zip(radial, found, strict=True)])
    fields = np.sort(fields, axis=0)[::-1]
    return image, 0.25 * fields[0] + fields[0] * fields[1]


class Baseline:
    """PCA(5) + Gaussian process of scikit-learn."""

    def __init__(self, windows):
        from sklearn.decomposition import PCA

        flat = windows.all().reshape(len(windows), -1)
        self.inputs = PCA(5, random_state=0).fit_transform(flat)
        self.inputs /= self.inputs.std(axis=0)

    def predict(self, index, values):
        """Return mean and standard deviation of all candidates."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        kernel = ConstantKernel() * Matern(np.ones(5), nu=2.5) + WhiteKernel(1e-3)
        process = GaussianProcessRegressor(kernel, normalize_y=True).fit(self.inputs[index], values)
        return process.predict(self.inputs, return_std=True)

    def run(self, index, truth):
        """Return the 100 candidates measured, beginning with ``index``."""
        index = list(index)
        while len(index) < POINTS:
            mean, std = self.predict(index, truth[index])
            z = (mean - truth[index].max()) / std
            gain = std * (z * norm.cdf(z) + norm.pdf(z))
            gain[index] = -1
            index.append(int(gain.argmax()))
        return np.array(index)


class Ours:
    """The explorer with one of its surrogates."""

    def __init__(self, image, surrogate, seed, batch):
        self.make = lambda: Explorer(image, patch=PATCH, surrogate=surrogate, seed=seed)
        self.batch = batch

    def predict(self, index, values):
        """Return mean and standard deviation of all candidates."""
        explorer = self.make()
        explorer.tell(explorer.candidates[index], values)
        return explorer.mean.ravel(), explorer.std.ravel()

    def run(self, index, truth):
        """Return the 100 candidates measured, beginning with ``index``."""
        explorer = self.make()
        value = {tuple(point): v for point, v in zip(explorer.candidates.tolist(), truth, strict=True)}
        tell = lambda points: explorer.tell(points, [value[tuple(p)] for p in points.tolist()])  # noqa: E731
        tell(explorer.candidates[index])
        while len(explorer.points) < POINTS:
            tell(explorer.ask(min(self.batch, POINTS - len(explorer.points))))
        number = {tuple(point): k for k, point in enumerate(explorer.candidates.tolist())}
        return np.array([number[tuple(p)] for p in explorer.points.tolist()])


def measure(method, truth, seed, hunt=True):
    """Return found fraction, R² and coverage at 50 and 100 random points, CPU seconds per point."""
    rng = np.random.default_rng(seed)
    start = rng.choice(len(truth), START, replace=False)
    result = {}
    if hunt:
        before = time.process_time()
        index = method.run(start, truth)
        result["cpu"] = (time.process_time() - before) / (POINTS - START)
        top = np.argsort(truth)[-round(0.02 * len(truth)) :]
        result["found"] = float(np.isin(top, index).mean())
    for n in (50, 100):
        known = rng.choice(len(truth), n, replace=False)
        mean, std = method.predict(known, truth[known])
        held = np.setdiff1d(np.arange(len(truth)), known)
        error = (mean - truth)[held]
        result[f"r2_{n}"] = 1 - float((error**2).mean() / truth[held].var())
        result[f"within_{n}"] = float((np.abs(error) < 2 * std[held]).mean())
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--surrogates", nargs="*", default=["descriptor", "dkl", "auto"])
    parser.add_argument("--no-peer-hunt", action="store_true", help="PCA + GP only predicts: its hunt takes longest")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="sklearn")
    rows = {name: [] for name in ["random", "pca5+gp", *arguments.surrogates]}
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        image, target = specimen(seed)
        windows = Windows.regular(image, PATCH)
        truth = target[tuple(windows.centres.T)]
        for name in rows:
            if name == "random":
                rows[name].append({"found": POINTS / len(truth)})  # its expectation
                continue
            method = Baseline(windows) if name == "pca5+gp" else Ours(image, name, seed, arguments.batch)
            rows[name].append(measure(method, truth, seed, name != "pca5+gp" or not arguments.no_peer_hunt))
            if not arguments.json:
                print(seed, name, {key: round(value, 3) for key, value in rows[name][-1].items()}, flush=True)
    summary = {
        name: {"found_min": min(r.get("found", np.nan) for r in results)}
        | {key: float(np.mean([r[key] for r in results])) for key in results[0]}
        for name, results in rows.items()
    }
    for name, values in summary.items() if not arguments.json else ():
        print(f"{name:12s}", "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    if arguments.json:
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
