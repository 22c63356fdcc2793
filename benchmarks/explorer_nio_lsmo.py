"""Count the points until 99 % of a feature is found on a film of NiO pillars in LSMO.

Two properties are looked for, in batches of 10: the one of the literature's experiment, the abundance of the
sliding-window Fourier modulus + NMF (workflow 1) of the image itself; and one the image does not hold, the areal
density of nickel as an EELS measurement with a 4 Å wide response gives it, with 3 % noise. The feature is what Otsu's
threshold of the property selects, the pillars; a place counts as found where the predicted map, measured places
included, lies above that threshold.

    python benchmarks/explorer_nio_lsmo.py

Kernels, acquisition functions and length scales are compared by ``explorer_workflows.py``.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import torch
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from stem_ae.descriptors.windows import Windows
from stem_ae.descriptors.workflows import FourierUnmixing, pick
from stem_ae.explore import Explorer
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.eels import areal_density
from stem_ae.imaging.oxides import nio_lsmo
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section

SAMPLING, WINDOW, STEP, BATCH = 0.4, 32, 6, 10  # Å, pixels, pixels, points


def survey(seed, electrons=200.0):
    """Return an image of the film with shot noise, its windows, and the density of nickel in their middles."""
    specimen = nio_lsmo(seed=seed)
    shape = tuple(int(length / SAMPLING) for length in specimen.extent[::-1])
    weights = cross_section(specimen.numbers, "HAADF")
    fraction = expected_fraction(specimen.positions[:, :2], weights, shape, SAMPLING, GaussianProbe(0.5))
    image = np.random.default_rng(seed).poisson(fraction * electrons / fraction.mean()).astype(float)
    windows = Windows.regular(image, WINDOW, STEP)
    nickel = areal_density(specimen, windows.centres[:, ::-1] * SAMPLING, 28, 4.0)
    return image, windows, windows.as_map(nickel / nickel.max())


def abundance(windows, seed):
    """Return the map of workflow 1's clearest component, high on the pillars (which are the smaller part)."""
    found = pick(FourierUnmixing.fit(windows, "nmf", 3, seed).maps(windows))
    return found if (found > threshold_otsu(found)).mean() < 0.5 else found.max() - found


def explore(image, windows, target, points, seed, noise=0.0, **settings):
    """Return for each batch: points, part of the feature found, part of false alarms, SSIM, mean uncertainty."""
    explorer = Explorer(image, sampling=SAMPLING, patch=WINDOW, candidates=windows.centres, seed=seed, **settings)
    values = dict(zip(map(tuple, windows.centres.tolist()), target.ravel().tolist(), strict=True))
    threshold, rng = threshold_otsu(target), np.random.default_rng(seed)
    feature, history = target > threshold, []
    while len(explorer.points) < points:
        asked = explorer.ask(BATCH)
        measured = np.array([values[tuple(point)] for point in asked.tolist()])
        explorer.tell(asked, measured + rng.normal(0, noise, len(measured)) if noise else measured)
        known = np.isin(np.arange(target.size), explorer.measured).reshape(target.shape)
        predicted = np.where(known, target, explorer.mean)
        found = predicted > threshold
        history.append((
            len(explorer.points), (found & feature).sum() / feature.sum(), (found & ~feature).sum() / (~feature).sum(),
            structural_similarity(target, predicted, data_range=np.ptp(target)), explorer.std.mean() / target.std(),
        ))
    return history


def report(name, history):
    reached = next((row[0] for row in history if row[1] >= 0.99), None)
    last = history[-1]
    print(f"{name:34s} 99 % at {reached!s:>5}   after {last[0]} points: found {last[1]:.3f}  false {last[2]:.3f}  "
          f"SSIM {last[3]:.2f}  mean uncertainty {last[4]:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        image, windows, nickel = survey(seed)
        for name, target, noise in (("abundance", abundance(windows, seed), 0.0), ("nickel", nickel, 0.03)):
            share = np.mean(target > threshold_otsu(target))
            print(f"specimen {seed}, {name}: {target.size} candidates, feature {share:.2f} of them")
            for surrogate, acquisition in itertools.product(("gp", "descriptor", "dkl"), ("uncertainty", "ucb", "ei")):
                before = time.process_time()
                settings = {"surrogate": surrogate, "acquisition": acquisition, "feature": share}
                history = explore(image, windows, target, arguments.points, seed, noise, **settings)
                cpu = (time.process_time() - before) / len(history)
                report(f"{surrogate} {acquisition} ({cpu:.2f} CPU-s a batch)", history)


if __name__ == "__main__":
    main()
