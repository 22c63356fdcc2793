"""Training images: patches of specimens under the conditions that microscopes really have.

What the literature augments (zoom, rotation, contrast, noise), plus what a scan does to an image (line jitter, drift,
blur, astigmatism), hydrocarbon, gradients and vacuum, all by the same image formation as the simulated microscope.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stem_ae.elit.preprocess import Image, repair, to_working_grid
from stem_ae.elit.refocus import REACH, Refocus
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.contamination import hydrocarbon
from stem_ae.imaging.distortion import line_jitter
from stem_ae.imaging.dose import electrons_for_dose
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe, Probe
from stem_ae.imaging.scattering import Detector, cross_section
from stem_ae.imaging.specimens import Specimen

FloatArray = NDArray[np.float64]

MakeSpecimen = Callable[[tuple[float, float], np.random.Generator], Specimen]

TARGET_WIDTH = 0.30  # Å: standard deviation of the blob that stands for an atom


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Ranges of the microscope's state that training covers; pairs are drawn uniformly, ``log_`` ones in logarithm.

    Attributes
    ----------
    log_dose : (float, float)
        e/Å².
    log_sampling : (float, float)
        Å per pixel of the recorded image.
    probe_sigma : (float, float)
        Å, thermal motion included.
    zoom : (float, float)
        Scale of the specimen: strain and errors of calibration.
    displacement : float
        Largest RMS static displacement of the atoms in Å.
    jitter : float
        Largest RMS line jitter in Å.
    coverage : float
        Largest fraction of the area under hydrocarbon.
    smoothed : float
        Fraction of the frames that something blurred after they were counted.
    probes : tuple of Probe
        The probes to draw from, instead of random ones of ``probe_sigma``.
    """

    log_dose: tuple[float, float] = (3e4, 3e7)
    log_sampling: tuple[float, float] = (0.04, 0.25)
    probe_sigma: tuple[float, float] = (0.30, 0.75)
    zoom: tuple[float, float] = (0.92, 1.08)
    displacement: float = 0.08
    jitter: float = 0.15
    coverage: float = 0.6
    smoothed: float = 0.2
    probes: tuple[Probe, ...] = ()

    @property
    def clean(self) -> Conditions:
        """The same without line jitter, hydrocarbon and smoothing."""
        return dataclasses.replace(self, jitter=0.0, coverage=0.0, smoothed=0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """One simulated frame and what is in it.

    Attributes
    ----------
    counts : (H, W) float32 array
        The recorded frame.
    sampling : float
        Å per pixel.
    xy : (N, 2) array
        Where the columns appear, in Å in the image's frame; some lie beyond its edge.
    names : list of str
        Their classes.
    heights : (N,) array, optional
        Probability with which each should be found, from 0 (below the noise) to 1; None: 1 for all.
    """

    counts: Image
    sampling: float
    xy: FloatArray
    names: list[str]
    heights: FloatArray | None = None


def scene(make_specimen: MakeSpecimen, extent: float, conditions: Conditions, rng: np.random.Generator) -> Scene:
    """Return a square frame of at least ``extent`` Å under random conditions."""
    sampling = _log_uniform(rng, conditions.log_sampling)
    pixels = int(np.ceil(extent / sampling)) + 1
    margin = 6.0  # Å: atoms beyond the edge shine into the frame
    specimen = make_specimen((extent + 2 * margin, extent + 2 * margin), rng)
    specimen = _zoomed(specimen, rng.uniform(*conditions.zoom), margin)
    specimen = dataclasses.replace(specimen, positions=_displaced(specimen.positions, conditions.displacement, rng))
    jitter = line_jitter(pixels, rng.uniform(0, conditions.jitter) * (rng.random() < 0.6), rng, rng.uniform(0, 0.9))
    counts = _record(specimen, (pixels, pixels), sampling, jitter, conditions, rng)
    centres, names = specimen.columns()
    line = np.clip(np.rint(centres[:, 1] / sampling), 0, pixels - 1).astype(int)
    apparent = centres - np.column_stack([jitter[line], np.zeros(len(line))])
    return Scene(counts.astype(np.float32), sampling, apparent, names)


def expected(
    make_specimen: MakeSpecimen, extent: float, sampling: float, probe: Probe, rng: np.random.Generator
) -> FloatArray:
    """Return the scattered fraction of the beam, without noise, for a square of ``extent`` Å of a random specimen."""
    pixels = int(extent / sampling)
    specimen = _zoomed(make_specimen((extent + 12.0, extent + 12.0), rng), 1.0, 6.0)
    weights = cross_section(specimen.numbers)
    return expected_fraction(specimen.positions[:, :2], weights, (pixels, pixels), sampling, probe)


def patch(
    make_specimen: MakeSpecimen,
    species: Sequence[str],
    size: int,
    working: float,
    conditions: Conditions,
    rng: np.random.Generator,
    refocus: Refocus | None = None,
) -> tuple[Image, Image]:
    """Return one training pair on the working grid, refocused if that is asked for.

    Returns
    -------
    (size, size) float32 array
        The frame as the network sees it.
    (1 + C, size, size) float32 array
        Target probabilities; channel 0 is the background.
    """
    rim = 0 if refocus is None else int(REACH / working)  # what is beyond the frame is not known where it is refocused
    shot = scene(make_specimen, (size + 2 * rim) * working, conditions, rng)
    counts = repair(shot.counts)
    counts = counts if refocus is None else refocus(counts, (shot.sampling, shot.sampling))
    inner = slice(rim, rim + size)
    image = to_working_grid(counts, shot.sampling, working)[inner, inner]
    return image, target(shot.xy - rim * working, shot.names, species, (size, size), working)


def target(
    xy: FloatArray,
    names: Sequence[str],
    species: Sequence[str],
    shape: tuple[int, int],
    working: float,
    heights: FloatArray | None = None,
) -> Image:
    """Return the probabilities ``(1 + C, h, w)`` that the network is to learn: a Gaussian blob per column.

    ``heights`` are those of the blobs, all 1 if they are not given.
    """
    probability = np.zeros((len(species), *shape), np.float32)
    rows, columns = np.arange(shape[0]) * working, np.arange(shape[1]) * working
    for k, name in enumerate(species):
        of_class = np.array([n == name for n in names], dtype=bool)
        chosen = xy[of_class]
        if len(chosen):
            along_y = np.exp(-((rows[:, None] - chosen[:, 1]) ** 2) / (2 * TARGET_WIDTH**2))
            along_x = np.exp(-((columns[:, None] - chosen[:, 0]) ** 2) / (2 * TARGET_WIDTH**2))
            probability[k] = (along_y if heights is None else along_y * heights[of_class]) @ along_x.T
    total = np.maximum(probability.sum(0), 1.0)
    probability /= total
    return np.concatenate([1 - probability.sum(0, keepdims=True), probability]).astype(np.float32)


def data_set(
    make_specimen: MakeSpecimen,
    species: Sequence[str],
    count: int,
    size: int,
    working: float,
    conditions: Conditions,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    refocus: Refocus | None = None,
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return ``count`` training pairs: images ``(count, size, size)``, targets ``(count, 1 + C, size, size)`` in 1/255.

    Half precision and bytes keep thousands of patches in memory; both are finer than the noise.
    """
    images = np.empty((count, size, size), np.float16)
    targets = np.empty((count, 1 + len(species), size, size), np.uint8)
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        image, probability = patch(make_specimen, species, size, working, conditions, rng, refocus)
        images[k], targets[k] = image, np.rint(probability * 255)
        progress(k + 1)
    return images, targets


def _record(
    specimen: Specimen,
    shape: tuple[int, int],
    sampling: float,
    jitter: FloatArray,
    conditions: Conditions,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the counts of one frame."""
    detector: Detector = "HAADF" if rng.random() < 0.7 else "MAADF"
    xy, weights = specimen.positions[:, :2], cross_section(specimen.numbers, detector)
    weights = weights * rng.uniform(0.97, 1.03, len(weights))
    probe = _random_probe(conditions, rng)
    fraction = expected_fraction(xy, weights, shape, sampling, probe, line_shifts=jitter)
    if rng.random() < 0.3:  # the long tails that real probes have
        share = rng.uniform(0.05, 0.35)
        tails = expected_fraction(xy, weights, shape, sampling, GaussianProbe(rng.uniform(1.0, 2.0)))
        fraction = (1 - share) * fraction + share * tails
    typical = float(np.percentile(fraction, 95)) + 1e-12
    background = typical * rng.uniform(0, 0.5) * (1 + _gradient(shape, rng) * rng.uniform(0, 0.7))
    if conditions.coverage and rng.random() < 0.45:
        scale = rng.uniform(0.1, 2.5) * typical / float(cross_section(6, detector))
        coverage = rng.uniform(min(0.05, conditions.coverage), conditions.coverage)
        background = background + hydrocarbon(shape, sampling, coverage, rng, scale, rng.uniform(0.1, 0.5), detector)
    electrons = electrons_for_dose(_log_uniform(rng, conditions.log_dose), sampling)
    readout = rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0
    counts = detect(fraction, electrons, rng, background, readout)
    if rng.random() < conditions.smoothed:  # cameras and software smooth images too
        counts = ndimage.gaussian_filter(counts, rng.uniform(0.6, 1.5))
    return counts * (1 + 0.3 * rng.random() * _gradient(shape, rng))


def _random_probe(conditions: Conditions, rng: np.random.Generator) -> Probe:
    if conditions.probes:
        return conditions.probes[int(rng.integers(len(conditions.probes)))]
    width = rng.uniform(*conditions.probe_sigma)
    if width < 0.45 or rng.random() < 0.7:
        return GaussianProbe(width, rng.uniform(0, 0.15), rng.uniform(0, np.pi))
    astigmatism = rng.normal(0, 15, 2)
    return AberratedProbe(
        energy_ev=rng.choice([60e3, 80e3, 100e3, 200e3]),
        semiangle_mrad=rng.uniform(25, 35),
        defocus=rng.normal(0, 30),
        astigmatism=(float(astigmatism[0]), float(astigmatism[1])),
        source_sigma=np.sqrt(max(width**2 - 0.3**2, 0.1)),
    )


def _zoomed(specimen: Specimen, zoom: float, margin: float) -> Specimen:
    positions = specimen.positions.copy()
    positions[:, :2] = positions[:, :2] * zoom - margin
    return dataclasses.replace(specimen, positions=positions)


def _displaced(positions: FloatArray, largest: float, rng: np.random.Generator) -> FloatArray:
    # All atoms of a column move together: group by position before moving.
    keys = np.rint(positions[:, :2] / 0.3).astype(np.int64)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    moves = rng.normal(0, rng.uniform(0, largest), (int(group.max(initial=0)) + 1, 2))
    moved = positions.copy()
    moved[:, :2] += moves[group.reshape(-1)]
    return moved


def _gradient(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    result: FloatArray = np.cos(angle) * x + np.sin(angle) * y
    return result


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))

