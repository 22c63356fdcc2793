"""Simulate a HAADF frame of graphene with silicon, find its atoms, and relax the surroundings of one silicon atom.

Then the adsorption energy of hydrogen beside it, and where to look next. Everything goes through the durable queue.

``python examples/relax_defect.py``
"""

import numpy as np

from stem_ae import elit, jobs, simulate, structure
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene
from stem_ae.simulate import guidance

SAMPLING = 0.104  # Å per pixel
DOSE = 1e6  # electrons per Å²

specimen = graphene((40.0, 40.0), silicon=0.01, rotation=0.2, seed=3)
weights = cross_section(specimen.numbers, "HAADF")
fraction = expected_fraction(specimen.positions[:, :2], weights, (384, 384), SAMPLING, GaussianProbe(0.5))
image = detect(fraction, electrons_for_dose(DOSE, SAMPLING), np.random.default_rng(0))
atoms = elit.load("graphene").predict(image, sampling=SAMPLING).atoms

silicon = atoms.positions[np.array(atoms.symbols) == "Si"]
x, y = silicon[np.argmin(np.linalg.norm(silicon - 20.0, axis=1))]  # the one nearest to the middle
cell = structure.build(atoms, structure.around(x, y, 6.0))
hydrogenated = structure.adsorb(cell, "H", "top", near=tuple(structure.from_image(cell, [[x, y]])[0]))
print(cell.get_chemical_formula(), "scale corrected by", round(cell.info["stem_ae"]["calibration"]["scale"], 4))

queue = jobs.Queue.open()
relaxed = queue.submit(simulate.Relax(fixed="perimeter"), cell)
dynamics = queue.submit(simulate.MolecularDynamics(temperature=300, steps=100), after=relaxed)
adsorption = queue.submit(simulate.Adsorption(fixed="perimeter"), hydrogenated)
queue.start_worker()  # it outlives this program
for job in (relaxed, dynamics, adsorption):
    print(job.id, job.wait(), job.error)

result = relaxed.result()
for name, bond in result.summary["bonds"].items():
    print(f"{name}: {bond['mean']:.3f} Å ({bond['min']:.3f} to {bond['max']:.3f})")
print(f"moved {result.summary['displacement']['mean_pm']:.1f} pm on average;", result.summary["defects"])
print(f"H on Si: {adsorption.result().summary['adsorption_energy']:.2f} eV (positive: bound)")
for spot in guidance.spots(structure.to_image(result.atoms), guidance.excess_energy(result.atoms)):
    print(f"look at x {spot.x:.1f}, y {spot.y:.1f} Å: {spot.score:.2f} eV")
