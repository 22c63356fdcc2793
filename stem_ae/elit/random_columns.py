"""Training images for a model without a material: columns of any crystal, film or particle, at any brightness.

Lengths are in the model's own unit, in which a column is about half a unit wide (standard deviation): a real image is
scaled to it by the width of its columns (:mod:`stem_ae.elit.scale_network`). Varied is what decides whether columns
can be found: their distance over their width, and their brightness beside each other, the background and the noise.
"""

from __future__ import annotations

import functools

import ase
import ase.build
import ase.spacegroup
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stem_ae.elit.synthesis import Scene
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.distortion import line_jitter
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import from_ase, smooth_displacement

FloatArray = NDArray[np.float64]
Columns = tuple[FloatArray, FloatArray]
"""Positions ``(N, 2)`` and relative brightnesses ``(N,)``."""

COLUMN = "column"
"""The only class."""

_WIDTHS = (0.30, 0.80)  # standard deviation of a column, in the model's unit
_SAMPLINGS = (0.05, 0.40)  # units per pixel of the recorded image
_CLOSEST = 1.8  # column widths: two columns that are closer have one maximum (Sparrow's limit is 2)
_SPACINGS = (2.0, 9.0)  # column widths between nearest columns
_TIGHT = (2.0, 3.5)  # the same of dumbbells and whatever else is hardly resolved
_MARGIN = 3.0  # units around the frame, whose columns shine into it
# Signal-to-noise ratio below which columns are not labelled, and above which all are. In a lattice neighbours
# support a column; a single atom has to stand out from thousands of grains.
_FAINT, _CLEAR = {True: 2.6, False: 0.7}, {True: 4.2, False: 1.7}


def scene(
    extent: float, rng: np.random.Generator, width: float | None = None, sampling: float | None = None
) -> Scene:
    """Return a square frame of at least ``extent`` units with random columns.

    Parameters
    ----------
    extent : float
        Side, in the model's unit.
    rng : numpy.random.Generator
        Source of everything random.
    width : float, optional
        Of a column (standard deviation), in the model's unit; random unless given.
    sampling : float, optional
        Units per pixel; random unless given.

    Returns
    -------
    Scene
        ``heights`` is the probability with which each column should be found: 0 for those below the noise.
    """
    width = width or _log_uniform(rng, *_WIDTHS)
    sampling = sampling or min(_log_uniform(rng, *_SAMPLINGS), 1.2 * width)
    pixels = int(np.ceil(extent / sampling)) + 1
    is_sparse = bool(rng.random() < 0.3)
    xy, brightness = _isolated(extent, width, rng) if is_sparse else _crystals(extent, width, rng)
    xy, brightness = _resolved(xy, brightness, _CLOSEST * width)
    brightness = brightness * _thickness(xy, extent, rng)
    jitter = line_jitter(pixels, rng.uniform(0, 0.3) * width * (rng.random() < 0.5), rng, rng.uniform(0, 0.9))
    ellipticity = rng.uniform(0, 0.15)
    probe = GaussianProbe(width, ellipticity, rng.uniform(0, np.pi))
    peak = 2 * np.pi * width**2
    signal = expected_fraction(xy, brightness * peak, (pixels, pixels), sampling, probe, line_shifts=jitter)
    if rng.random() < 0.4:  # the long tails that real probes have
        share, tail = rng.uniform(0.05, 0.4), rng.uniform(1.8, 4.0) * width
        halo = expected_fraction(xy, brightness * peak, (pixels, pixels), sampling, GaussianProbe(tail))
        signal = (1 - share) * signal + share * halo
    typical = float(np.median(brightness)) if len(brightness) else 1.0
    ground, grain = _background((pixels, pixels), sampling, width, is_sparse, rng)
    ground *= typical
    clean = signal + ground
    noisy, noise = _counted(clean, typical, width / sampling, rng)
    line = np.clip(np.rint(xy[:, 1] / sampling), 0, pixels - 1).astype(int) if len(xy) else np.zeros(0, int)
    apparent = xy - np.column_stack([jitter[line], np.zeros(len(line))])
    spots = np.clip(np.rint(apparent / sampling), 0, pixels - 1).astype(int)
    # A matched filter sums the signal over the column: its noise is that of a pixel over the filter's norm.
    norm = np.sqrt(np.pi) * width / sampling
    spread = np.hypot(noise[spots[:, 1], spots[:, 0]] / norm, grain * typical)
    visible = brightness / np.maximum(spread, 1e-9)
    faint, clear = _FAINT[is_sparse], _CLEAR[is_sparse]
    heights = np.clip((visible - faint) / (clear - faint), 0.0, 1.0)
    counts = _processed(noisy, width / sampling, rng)
    return Scene(counts.astype(np.float32), sampling, apparent, [COLUMN] * len(apparent), heights)


# --- where the columns are --------------------------------------------------------------------------------------------


def _crystals(extent: float, width: float, rng: np.random.Generator) -> Columns:
    """Return one grain, or two that meet at a line, with holes, edges, vacancies or as a particle."""
    spacing = width * (_log_uniform(rng, *_SPACINGS) if rng.random() < 0.7 else rng.uniform(*_TIGHT))
    xy, brightness = _grain(extent, spacing, rng)
    centre = np.full(2, extent / 2)
    if rng.random() < 0.3:
        again = spacing if rng.random() < 0.5 else width * _log_uniform(rng, *_SPACINGS)
        other, other_brightness = _grain(extent, again, rng)
        other_brightness = other_brightness * _log_uniform(rng, 0.4, 2.5)
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3) * extent
        normal, gap = np.array([np.cos(angle), np.sin(angle)]), rng.uniform(0.2, 0.5) * min(spacing, again)
        first, second = (xy - centre) @ normal < offset - gap, (other - centre) @ normal > offset + gap
        xy = np.concatenate([xy[first], other[second]])
        brightness = np.concatenate([brightness[first], other_brightness[second]])
    keep = rng.random(len(xy)) >= rng.choice([0.0, 0.01, 0.05, 0.2], p=[0.5, 0.25, 0.15, 0.1])
    if rng.random() < 0.3:  # a hole, a particle, an edge
        middle, radius = rng.uniform(0, extent, 2), spacing + rng.uniform(0.2, 0.8) * extent
        inside = np.hypot(*(xy - middle).T) < radius
        keep &= inside if rng.random() < 0.5 else ~inside
    return xy[keep], brightness[keep]


def _grain(extent: float, spacing: float, rng: np.random.Generator) -> Columns:
    """Return a strained, turned lattice over the whole frame whose nearest columns are ``spacing`` apart."""
    xy, weights = _invented(rng) if rng.random() < 0.6 else _prototype(rng)
    half = extent / spacing / np.sqrt(2) + 3  # in spacings, to the corner
    repeated, weights = _repeated(xy, weights, half)
    angle, mirror = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [1.0, mirror]
    strain = np.eye(2) + rng.normal(0, 0.02, (2, 2))
    places = repeated @ turn.T @ strain.T * spacing + extent / 2 + rng.uniform(-1, 1, 2) * spacing
    places = places + rng.normal(0, rng.uniform(0, 0.05), places.shape) * spacing
    if rng.random() < 0.3:
        places = places + smooth_displacement(places, rng.uniform(0, 0.15) * spacing, rng)
    seen = ((places > -_MARGIN) & (places < extent + _MARGIN)).all(1)
    places, weights = places[seen], weights[seen]
    if rng.random() < 0.4:  # dopants: single columns far brighter, or fainter, than what is around them
        doped = rng.random(len(weights)) < rng.choice([0.01, 0.04, 0.15])
        weights = np.where(doped, weights * _log_uniform(rng, 0.3, 7.0), weights)
    return places, weights * np.exp(rng.normal(0, rng.choice([0.02, 0.1, 0.3], p=[0.4, 0.4, 0.2]), len(weights)))


Cell = tuple[FloatArray, FloatArray, FloatArray]
"""Two lattice vectors as rows, sites ``(n, 2)`` in them, and their brightnesses."""


def _invented(rng: np.random.Generator) -> tuple[Cell, FloatArray]:
    """Return a lattice of any kind with one to four sites, nearest sites one apart."""
    kind = rng.integers(6)
    oblique = rng.normal(0, 0.12)
    if kind == 0:  # square, rectangular, oblique
        vectors, sites = np.array([[1.0, 0.0], [oblique, rng.uniform(1.0, 2.2)]]), np.zeros((1, 2))
    elif kind == 1:  # hexagonal
        vectors, sites = np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]]), np.zeros((1, 2))
    elif kind == 2:  # honeycomb
        vectors, sites = np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]]), np.array([[0, 0], [1 / 3, 1 / 3]])
    elif kind == 3:  # centred, with a second site that may be off centre
        vectors = np.array([[1.0, 0.0], [oblique, rng.uniform(0.7, 1.8)]])
        sites = np.array([[0.0, 0.0], 0.5 + rng.normal(0, 0.04, 2)])
    elif kind == 4:  # dumbbells
        vectors = np.array([[1.0, 0.0], [0.0, rng.uniform(0.5, 1.2)]])
        length = rng.uniform(0.15, 0.35)
        sites = np.array([[0, 0], [length, 0], [0.5, 0.5], [0.5 + length, 0.5]])
    else:  # anything
        vectors = np.array([[1.0, 0.0], [oblique, rng.uniform(0.8, 1.6)]])
        sites = rng.uniform(0, 1, (int(rng.integers(2, 5)), 2))
    two = _log_uniform(rng, 0.12, 1.0) if rng.random() < 0.7 else 1.0
    weights = np.where(np.arange(len(sites)) % 2, two, 1.0)
    if kind == 5:
        weights = np.exp(rng.uniform(np.log(0.15), 0, len(sites)))
    return (vectors, sites, weights), weights


def _prototype(rng: np.random.Generator) -> tuple[Cell, FloatArray]:
    """Return the columns of a real kind of crystal along one of its main zones."""
    cells = _prototypes()
    vectors, sites, weights = cells[int(rng.integers(len(cells)))]
    weights = weights ** rng.uniform(0.5, 1.0)  # channelling and thickness flatten what Z alone would give
    return (vectors, sites, weights), weights


def _repeated(cell: Cell, weights: FloatArray, half: float) -> Columns:
    """Return the lattice out to a distance, scaled so that its nearest columns are one apart."""
    vectors, sites, _ = cell
    vectors = vectors / _nearest(vectors, sites)
    n = int(np.ceil(half / np.sqrt(abs(np.linalg.det(vectors))) * 1.6)) + 2
    i, j = (index.ravel() for index in np.mgrid[-n : n + 1, -n : n + 1])
    origins = np.column_stack([i, j]) @ vectors
    xy = (origins[:, None] + (sites @ vectors)[None]).reshape(-1, 2)
    near = np.hypot(*xy.T) < half * 1.05
    return xy[near], np.tile(weights, len(origins))[near]


def _nearest(vectors: FloatArray, sites: FloatArray) -> float:
    shifts = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3)])
    all_sites = (sites[None] + shifts[:, None]).reshape(-1, 2) @ vectors
    distances, _ = cKDTree(all_sites).query(sites @ vectors, k=2)
    return max(float(distances[:, 1].min()), 0.1)


@functools.cache
def _prototypes() -> list[Cell]:
    """Return the projected cells of ASE's kinds of crystals along their main zones."""
    bulk = ase.build.bulk
    crystals = [
        bulk("Au", "fcc", 4.08, cubic=True), bulk("Fe", "bcc", 2.87, cubic=True),
        bulk("Si", "diamond", 5.43, cubic=True), bulk("GaAs", "zincblende", 5.65, cubic=True),
        bulk("CdTe", "zincblende", 6.48, cubic=True),
        bulk("PbTe", "rocksalt", 6.46, cubic=True), bulk("MgO", "rocksalt", 4.21, cubic=True),
        bulk("CsCl", "cesiumchloride", 4.12, cubic=True), bulk("CeO2", "fluorite", 5.41, cubic=True),
        bulk("GaN", "wurtzite", 3.19, c=5.19), bulk("Mg", "hcp", 3.21, c=5.21),
        _perovskite("Sr", "Ti", 3.905), _perovskite("Pb", "Ti", 3.97), _perovskite("La", "Mn", 3.88),
        ase.build.mx2("MoS2", kind="2H", a=3.16, vacuum=5.0), ase.build.graphene(vacuum=5.0),
        ase.spacegroup.crystal(
            ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90]
        ),
    ]  # fmt: skip
    zones = [(0, 0, 1), (1, 1, 0), (1, 1, 1), (1, 0, 0), (1, 1, 2)]
    found = []
    for crystal in crystals:
        is_sheet = crystal.cell[2, 2] > 9 and not crystal.pbc[2]
        for zone in zones[:1] if is_sheet else zones:
            if (cell := _projected(crystal, zone)) is not None:
                found.append(cell)
    return found


def _perovskite(a: str, b: str, lattice: float) -> ase.Atoms:
    return ase.spacegroup.crystal(
        [a, b, "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[lattice] * 3 + [90] * 3
    )


def _projected(crystal: ase.Atoms, zone: tuple[int, int, int]) -> Cell | None:
    """Return the two-dimensional cell that a crystal shows along a zone; None if its columns lie too close together."""
    extent = 40.0
    specimen = from_ase(crystal, (extent, extent), zone)
    xy, brightness = _resolved(specimen.positions[:, :2], cross_section(specimen.numbers), 0.6)
    brightness = brightness / brightness.max()
    seen = brightness > 0.05
    xy, brightness = xy[seen], brightness[seen]
    middle = int(np.argmin(np.hypot(*(xy - extent / 2).T)))
    alike = np.flatnonzero(np.isclose(brightness, brightness[middle], rtol=0.02))
    places = xy[alike] - xy[middle]
    order = np.argsort(np.hypot(*places.T))[1:40]
    tree = cKDTree(xy)
    vectors: list[FloatArray] = []
    inner = np.all(np.abs(xy - extent / 2) < extent / 5, axis=1)
    for k in order:  # a lattice vector takes every column of the inside to one as bright
        distance, which = tree.query(xy[inner] + places[k])
        repeats = distance.max() < 0.1 and np.allclose(brightness[which], brightness[inner], rtol=0.02)
        if repeats and (not vectors or abs(float(np.linalg.det([vectors[0], places[k]]))) > 0.5):
            vectors.append(places[k])
        if len(vectors) == 2:
            break
    else:
        return None
    basis = np.array(vectors)
    fractions = (xy[inner] - xy[middle]) @ np.linalg.inv(basis)
    inside = np.all((fractions > -0.02) & (fractions < 0.98), axis=1)
    return basis, fractions[inside], brightness[inner][inside]


def _isolated(extent: float, width: float, rng: np.random.Generator) -> Columns:
    """Return single atoms, clusters of a few, or none."""
    area = (extent + 2 * _MARGIN) ** 2
    count = rng.poisson(_log_uniform(rng, 0.002, 0.05) / width**2 * 0.25 * area)
    xy = rng.uniform(-_MARGIN, extent + _MARGIN, (count, 2))
    if rng.random() < 0.4 and count:
        partners = xy + rng.normal(0, 1, xy.shape) * 3 * width
        xy = np.concatenate([xy, partners[rng.random(count) < 0.5]])
    spread = rng.choice([0.05, 0.2, 0.4])
    return xy, np.exp(rng.normal(0, spread, len(xy)))


def _resolved(xy: FloatArray, brightness: FloatArray, closest: float) -> Columns:
    """Return the columns with unresolved ones merged."""
    while len(xy) > 1:
        pairs = cKDTree(xy).query_pairs(closest, output_type="ndarray")
        if not len(pairs):
            break
        distance = np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)
        used = np.zeros(len(xy), bool)
        drop = np.zeros(len(xy), bool)
        xy, brightness = xy.copy(), brightness.copy()
        for a, b in pairs[np.argsort(distance)]:
            if used[a] or used[b]:
                continue
            used[a] = used[b] = drop[b] = True
            total = brightness[a] + brightness[b]
            xy[a] = (brightness[a] * xy[a] + brightness[b] * xy[b]) / total
            brightness[a] = total
        xy, brightness = xy[~drop], brightness[~drop]
    return xy, brightness


# --- what the microscope makes of them --------------------------------------------------------------------------------


def _thickness(xy: FloatArray, extent: float, rng: np.random.Generator) -> FloatArray:
    """Return how thick the specimen is at each column: flat, a wedge, a sphere, or waves."""
    kind = rng.random()
    if kind < 0.45 or not len(xy):
        return np.ones(len(xy))
    if kind < 0.65:
        angle = rng.uniform(0, 2 * np.pi)
        along = (xy - extent / 2) @ np.array([np.cos(angle), np.sin(angle)]) / extent
        wedge: FloatArray = np.clip(1 + rng.uniform(0.3, 1.8) * along, 0.08, None)
        return wedge
    if kind < 0.85:
        middle, radius = rng.uniform(-0.2, 1.2, 2) * extent, rng.uniform(0.4, 1.5) * extent
        sphere: FloatArray = np.sqrt(np.clip(1 - ((xy - middle) ** 2).sum(1) / radius**2, 0.01, None))
        return sphere
    waves = smooth_displacement(xy, 1.0, rng)[:, 0]
    return np.exp(rng.uniform(0.1, 0.6) * waves)


def _background(
    shape: tuple[int, int], sampling: float, width: float, is_sparse: bool, rng: np.random.Generator
) -> tuple[FloatArray, float]:
    """Return the support under the columns, in units of a typical column's brightness, and the rms of its grain.

    The grain of an amorphous support is as fine as the probe: it looks like many faint atoms.
    """
    level = _log_uniform(rng, 0.02, 15.0 if is_sparse else 4.0) if rng.random() < 0.8 else 0.0
    ground = np.full(shape, level)
    if rng.random() < 0.6:
        ground = ground * (1 + rng.uniform(0, 0.8) * _gradient(shape, rng))
    if rng.random() < (0.7 if is_sparse else 0.3):  # steps and hills of the support
        hills = _field(shape, _log_uniform(rng, 3.0, 20.0) * width / sampling, rng)
        if rng.random() < 0.5:
            hills = np.tanh(hills * rng.uniform(1, 8))
        ground = ground + level * rng.uniform(0, 0.8) * (hills - hills.min())
    grain = 0.0
    if rng.random() < (0.85 if is_sparse else 0.25):
        grain = _log_uniform(rng, 0.05, 0.5) if is_sparse else _log_uniform(rng, 0.03, 0.15)
        fine = _field(shape, width * rng.uniform(0.6, 1.6) / sampling, rng)
        ground = ground + grain * fine
    return ground, grain


def _counted(
    clean: FloatArray, typical: float, pixels: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return the frame with noise, and the noise's standard deviation in each pixel.

    ``pixels`` is the width of a column. Noise of counting grows with the signal, that of the electronics does not.
    """
    snr = _log_uniform(rng, 2.5, 150.0)  # of a typical column through a matched filter
    deviation = typical * np.sqrt(np.pi) * pixels / snr
    share = rng.uniform(0, 1) if rng.random() < 0.5 else 1.0
    above = np.maximum(clean - min(float(clean.min()), 0.0), 0.0)
    variance = deviation**2 * (share * above / max(float(above.mean()), 1e-9) + (1 - share))
    noise = np.sqrt(variance)
    noisy = clean + rng.normal(size=clean.shape) * noise
    if rng.random() < 0.1:  # lines that are brighter or darker
        noisy = noisy + rng.normal(size=(len(clean), 1)) * rng.uniform(0, 0.15) * typical
    return noisy, noise


def _processed(image: FloatArray, pixels: float, rng: np.random.Generator) -> FloatArray:
    """Return the frame after post-processing: smoothed, clipped, in 8 bits, with a burnt-in scale bar."""
    if rng.random() < 0.35:
        image = ndimage.gaussian_filter(image, min(rng.uniform(0.3, 1.0) * pixels, 3.0))
    elif rng.random() < 0.08:
        image = ndimage.median_filter(image, 3)
    low, high = np.percentile(image, [rng.uniform(0, 3), rng.uniform(97, 100)] if rng.random() < 0.3 else [0, 100])
    image = np.clip((image - low) / max(high - low, 1e-9), 0, 1)
    if rng.random() < 0.15:
        image = image ** rng.uniform(0.5, 1.6)
    if rng.random() < 0.3:
        image = np.rint(image * 255) / 255
    if rng.random() < 0.06:
        size = len(image)
        height, length = max(int(rng.uniform(0.02, 0.06) * size), 2), int(rng.uniform(0.2, 0.5) * size)
        row, column = int(rng.uniform(0.8, 0.93) * size), int(rng.uniform(0.03, 0.4) * size)
        image[row : row + height, column : column + length] = rng.choice([0.0, 1.0])
    return image


def _field(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> FloatArray:
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap", truncate=3.0)
    return np.asarray(field / max(float(field.std()), 1e-12), dtype=float)


def _gradient(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    result: FloatArray = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)
    return result


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
