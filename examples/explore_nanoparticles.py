"""Explore the gap plasmons of nanoparticles with 100 spectra, without a microscope and without Swift.

``python examples/explore_nanoparticles.py``
"""

import numpy as np

from stem_ae.explore import Explorer
from stem_ae.explore.scalarize import BandIntegral, scalarize
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.eels import spectrum
from stem_ae.imaging.nanoparticles import nanoparticles
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section

SAMPLING = 1.0  # Å per pixel
ENERGY = np.arange(-5.0, 40.0, 0.1)  # eV
ELECTRONS = 1e7  # in a spectrum

rng = np.random.default_rng(0)
specimen = nanoparticles(seed=2)
weights = cross_section(specimen.numbers, "HAADF")
fraction = expected_fraction(specimen.positions[:, :2], weights, (160, 160), SAMPLING, GaussianProbe(0.7))
survey = detect(fraction, 1e5, rng)


def expected(points):
    """Return noise-free spectra at rows and columns."""
    places = np.asarray(points)[:, ::-1] * SAMPLING
    return ELECTRONS * np.array([spectrum(specimen, xy, ENERGY, 60e3, 0.7) for xy in places])


def value(spectra):
    """Return what is looked for: the counts where the plasmons of narrow gaps are."""
    return scalarize(spectra, ENERGY, {"gap": BandIntegral((7.0, 8.2))})["gap"]


grid = np.stack(np.meshgrid(np.arange(8, 152, 3), np.arange(8, 152, 3), indexing="ij"), axis=-1).reshape(-1, 2)
explorer = Explorer(survey, sampling=SAMPLING, patch=16, candidates=grid)
for _ in range(10):
    points = explorer.ask(batch=10)
    explorer.tell(points, value(rng.poisson(expected(points))))

strongest = np.argsort(value(expected(grid)))[-len(grid) // 50 :]
found = np.isin(strongest, explorer.measured).mean()
print(f"{len(explorer.measured)} of {len(grid)} places measured, {found:.0%} of the top 2 % among them")
