"""Simulate a HAADF frame of graphene with silicon, find its atoms, and compare with where they are.

``python examples/simulated_graphene.py``
"""

import numpy as np

from stem_ae import elit
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene
from stem_ae.scoring import score

SAMPLING = 0.104  # Å per pixel
DOSE = 3e5  # electrons per Å²

specimen = graphene((53.2, 53.2), silicon=0.02, rotation=7.0)
weights = cross_section(specimen.numbers, "HAADF")
fraction = expected_fraction(specimen.positions[:, :2], weights, (512, 512), SAMPLING, GaussianProbe(0.5))
image = detect(fraction, electrons_for_dose(DOSE, SAMPLING), np.random.default_rng(0))

prediction = elit.load("graphene").predict(image, sampling=SAMPLING)
truth, names = specimen.columns()
result = score(prediction.atoms, truth, names)
print(prediction.atoms.counts())
print(f"recall {result.recall:.4f}, precision {result.precision:.4f}, error {100 * result.rmse:.1f} pm per axis")
