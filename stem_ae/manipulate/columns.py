"""What an image says about each column: its counts against those that each class of column gives.

The image model is that of :mod:`stem_ae.imaging.adf`: ``mu(r) = electrons * (b + sum_i a_i p(r - r_i))`` with the
probe ``p``. How bright a class is, how far columns of one class scatter, how wide the probe is and how noisy the counts
are is learnt from the survey. An image afterwards is registered to the map; then all amplitudes ``a_i`` are fitted
together with the background and with small displacements (weighted least squares, linear). Amplitudes and their
variances of all images of one stay are pooled and make a likelihood for each class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize, signal, sparse

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.probe import Probe
from stem_ae.manipulate.beam import Region, Scan
from stem_ae.manipulate.levels import atoms_left, by_ladder

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

RIM = 0.8  # Å: columns this close to an image's edge are not judged
_WINDOW = 3.0  # Å around a column in which it is looked at
_FINE = 0.05  # Å: spacing of the probe's table
_SHIFTED = 0.3  # Å: how far an image may lie from where it is expected, once it is brought there by whole pixels
_RELAXED = 0.05  # Å: how far a column may have moved by itself (standard deviation per axis)
_TILE = 10.0  # Å: pieces in which a survey is measured
_AROUND = 1.0  # Å around a piece whose pixels take part; columns farther out have a part in these
_UNKNOWN = 1.2  # Å: so close to the edge of the map, columns beyond it are seen
_LEAST_SCATTER = 0.03  # of the most frequent class's brightness
_WIDEST_BLUR = 0.8  # Å
_STRAY = 1e-4  # chance that a column's counts are those of no class


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Amplitudes of the columns that an image shows.

    Parameters
    ----------
    index : (K,) array of int
        Which columns of the map.
    amplitude : (K,) array
        Å²: cross section for scattering into the detector.
    variance : (K, C) array
        Å⁴: of the amplitude by counting, if the column is of each class.
    """

    index: IntArray
    amplitude: FloatArray
    variance: FloatArray


@dataclasses.dataclass(frozen=True)
class _Fit:
    """What a piece of an image shows, and how well the model fits it."""

    measured: Measured
    noise: float
    """Variance of the residual over what counting makes."""
    surprise: float
    """Minus the logarithm of the likelihood of these counts, but for a constant."""


class ColumnModel:
    """Tells classes of columns by their counts.

    Parameters
    ----------
    probe : Probe
        The focused beam.
    levels : mapping
        Cross section of each class in Å²; an empty name is no atom.
    scatter : mapping
        How far columns of a class scatter about it, in Å² (standard deviation), counting aside.
    blur : float
        Å: what widens the probe's image (standard deviation): thermal motion, and what is not known of the probe.
    noise : float
        Variance of a pixel over its mean, in the image's counts.
    """

    def __init__(
        self, probe: Probe, levels: Mapping[str, float], scatter: Mapping[str, float], blur: float, noise: float = 1.0
    ) -> None:
        self.names = tuple(levels)
        """Classes, in the order of all arrays here."""
        self.levels = np.array([levels[name] for name in self.names])
        self.scatter = np.array([scatter[name] for name in self.names])
        self.blur, self.noise = blur, noise
        cells = round((_WINDOW + 0.5) / _FINE)
        middle = np.full((1, 2), cells * _FINE)
        self._table = expected_fraction(middle, np.ones(1), (2 * cells + 1,) * 2, _FINE, probe, blur)
        self._slopes = np.gradient(self._table, _FINE)  # along y, along x

    # --- learning ---------------------------------------------------------------------------------------------------

    @classmethod
    def learnt(
        cls, atoms: Atoms2D, scan: Scan, probe: Probe, weights: Mapping[str, float], ladder: Sequence[str]
    ) -> tuple[ColumnModel, Measured]:
        """Return the model that a survey shows, and the amplitudes of its columns.

        Parameters
        ----------
        atoms : Atoms2D
            What was found in it.
        scan : Scan
            The survey.
        probe : Probe
            The focused beam, as far as known.
        weights : mapping
            Å²: first guess of each class; all there is for those that the survey does not show.
        ladder : sequence of str
            Classes that are to be told apart, in the order in which one becomes the next; all of them scatter as the
            most frequent one does.
        """
        guess = {name: weights[name] for name in atoms.species} | {"": 0.0}
        blur = measured_blur(atoms, scan, probe, weights)
        model = cls(probe, guess, dict.fromkeys(guess, 0.0), blur)
        parts = [model._measure(scan, atoms, atoms.positions, tile) for tile in _tiles(scan, atoms)]
        measured = _joined([part.measured for part in parts])
        noise = float(np.median([part.noise for part in parts]))
        names = _by_counts(np.array(atoms.symbols)[measured.index], measured.amplitude, ladder)
        levels, scatter = {}, {}
        for k, name in enumerate(atoms.species):
            here = names == name
            if here.any():
                amplitude = measured.amplitude[here]
                levels[name] = float(np.median(amplitude))
                spread = 1.4826 * float(np.median(np.abs(amplitude - levels[name])))
                counting = noise * float(np.median(measured.variance[here, k]))
                scatter[name] = float(np.sqrt(max(spread**2 - counting, 0.0)))
        counts = {name: int(np.sum(names == name)) for name in atoms.species}
        levels |= by_ladder(levels, counts, ladder)
        scale = float(np.median([levels[name] / weights[name] for name in levels]))
        levels = {name: levels.get(name, scale * weights[name]) for name in atoms.species} | {"": 0.0}
        usual = max((name for name in ladder if name in scatter), key=lambda name: counts[name])
        scatter |= dict.fromkeys(ladder, max(scatter[usual], _LEAST_SCATTER * levels[usual]))  # few may be misread
        learnt = cls(probe, levels, {name: scatter.get(name, scatter[usual]) for name in levels}, blur, noise)
        return learnt, dataclasses.replace(measured, variance=noise * measured.variance)

    # --- looking ----------------------------------------------------------------------------------------------------

    def looked_at(self, scan: Scan, atoms: Atoms2D, positions: FloatArray, reach: float) -> Measured:
        """Return the amplitudes of the columns that an image shows.

        Parameters
        ----------
        scan : Scan
            The image.
        atoms : Atoms2D
            The map; its classes are a first guess.
        positions : (N, 2) array
            Where its columns are expected, in Å in the survey image, drift added.
        reach : float
            Å: how far everything may lie from there.
        """
        moved = positions + self._shift(scan, atoms, positions, reach)
        return self._measure(scan, atoms, moved, scan.region).measured

    def _guess(self, atoms: Atoms2D) -> FloatArray:
        """Return the amplitude of each column by its class."""
        level: FloatArray = self.levels[[self.names.index(name) for name in atoms.species]][atoms.labels]
        return level

    def _shift(self, scan: Scan, atoms: Atoms2D, positions: FloatArray, reach: float) -> FloatArray:
        """Return how far an image's columns lie from where they are expected: by whole pixels first, then exactly."""
        near = _within(positions, scan.region, _WINDOW)
        guess = self._guess(atoms)[near]
        pattern = self._design(scan, _pixels(scan, scan.region), positions[near])[0] @ guess
        height, width = scan.image.shape
        steps = max(min(int(reach / scan.sampling), min(height, width) // 2), 0)
        agreement = signal.correlate(scan.image - scan.image.mean(), _centred(pattern, scan.image.shape), "full")
        agreement = agreement[
            height - 1 - steps : height + steps, width - 1 - steps : width + steps
        ]
        down, right = np.unravel_index(int(agreement.argmax()), agreement.shape)
        shift: FloatArray = (np.array([right, down]) - steps) * scan.sampling
        for _ in range(3):
            shift = shift + self._rest(scan, guess, positions[near] + shift)
        return shift

    def _rest(self, scan: Scan, guess: FloatArray, positions: FloatArray) -> FloatArray:
        """Return the shift that is left, to first order: unknowns are shift, brightness and background."""
        values, along_x, along_y = self._design(scan, _pixels(scan, scan.region), positions)
        rows = np.column_stack([along_x @ guess, along_y @ guess, values @ guess, np.ones(scan.image.size)])
        rows *= scan.electrons
        weight = 1 / np.maximum(rows[:, 2], rows[:, 2].mean())
        normal = (rows * weight[:, None]).T @ rows + np.diag([_SHIFTED**-2, _SHIFTED**-2, 0.0, 0.0])
        dx, dy, *_ = np.linalg.solve(normal, (rows * weight[:, None]).T @ scan.image.ravel())
        step: FloatArray = np.clip([dx, dy], -_SHIFTED, _SHIFTED)
        return step

    def _measure(self, scan: Scan, atoms: Atoms2D, positions: FloatArray, region: Region) -> _Fit:
        """Fit the columns around a region, and return those inside."""
        near = np.flatnonzero(_within(positions, region, _WINDOW))
        known = _known_field(atoms, positions)
        pixels = _pixels(scan, _common(_grown(region, _AROUND), known))
        guess = self._guess(atoms)[near]
        values, along_x, along_y = self._design(scan, pixels, positions[near])
        electrons, data = scan.electrons, scan.image.ravel()[pixels]
        rows = sparse.hstack(
            [values, along_x.multiply(guess[None, :]), along_y.multiply(guess[None, :]), np.ones((len(pixels), 1))]
        ).tocsr() * electrons  # fmt: skip
        pattern = electrons * (values @ guess)
        background = max(float(np.mean(data - pattern)), 0.0)
        least = 0.02 * float(pattern.mean()) + 1e-12
        expected = np.maximum(pattern + background, least)
        own = np.sqrt(np.trace(atoms.covariance[near], axis1=1, axis2=2) / 2 + _RELAXED**2)
        tight = np.concatenate([np.full(len(near), 1 / (2 * self.levels.max())), 1 / own, 1 / own, [0.0]]) ** 2
        mean = np.concatenate([guess, np.zeros(2 * len(near) + 1)])
        weighted = rows.multiply(1 / (self.noise * expected)[:, None]).T.tocsr()
        covariance = np.linalg.inv((weighted @ rows).toarray() + np.diag(tight))
        fitted = covariance @ (weighted @ data + tight * mean)
        shown = np.maximum(rows @ fitted, least)
        noise = float(np.sum((data - shown) ** 2 / shown) / max(len(pixels) - 2 * len(near), 1))
        surprise = float(np.sum(shown - data * np.log(shown)))
        seen = _common(_common(region, scan.region), _grown(known, _UNKNOWN))
        inside = np.flatnonzero(_within(positions[near], _grown(seen, -RIM), 0.0))
        gain = (weighted.T @ covariance[:, inside]).T  # how each amplitude follows each pixel
        # If a column is of another class than thought, its own counts make another noise.
        own_counts = np.asarray(sparse.csr_array(values.T)[inside].multiply(gain**2).sum(axis=1)).ravel()
        change = self.levels[None, :] - guess[inside, None]
        variance = covariance[inside, inside][:, None] + self.noise * electrons * own_counts[:, None] * change
        floor = 0.2 * covariance[inside, inside][:, None]
        return _Fit(Measured(near[inside], fitted[inside], np.maximum(variance, floor)), noise, surprise)

    def _design(
        self, scan: Scan, pixels: IntArray, positions: FloatArray
    ) -> tuple[sparse.csr_array, sparse.csr_array, sparse.csr_array]:
        """Return the image of each column (pixels by columns, per Å²), and how it changes as it moves along x and y."""
        width = scan.image.shape[1]
        x = scan.origin[0] + (pixels % width) * scan.sampling
        y = scan.origin[1] + (pixels // width) * scan.sampling
        away_x, away_y = x[:, None] - positions[:, 0], y[:, None] - positions[:, 1]
        near = away_x**2 + away_y**2 < _WINDOW**2
        _, column = np.nonzero(near)
        starts = np.concatenate([[0], np.cumsum(near.sum(axis=1))])
        middle = len(self._table) // 2
        place = np.array([away_y[near], away_x[near]]) / _FINE + middle
        tables = (self._table, -self._slopes[1], -self._slopes[0])
        shape = (len(pixels), len(positions))
        images = [ndimage.map_coordinates(table, place, order=1, mode="nearest") for table in tables]
        value, slope_x, slope_y = (sparse.csr_array((image, column, starts), shape) for image in images)
        return value, slope_x, slope_y


def measured_blur(atoms: Atoms2D, scan: Scan, probe: Probe, weights: Mapping[str, float]) -> float:
    """Return what widens the image of a probe in Å (standard deviation), by the likelihood of an image's counts.

    Parameters
    ----------
    atoms : Atoms2D
        What was found in it.
    scan : Scan
        The image.
    probe : Probe
        The focused beam without what is to be measured: for one without a source, source and thermal motion together.
    weights : mapping
        Cross section of each class in Å²; a guess will do.
    """
    levels = {name: weights[name] for name in atoms.species} | {"": 0.0}
    tile = _busiest_tile(scan, atoms)

    def surprise(blur: float) -> float:
        model = ColumnModel(probe, levels, dict.fromkeys(levels, 0.0), blur)
        return model._measure(scan, atoms, atoms.positions, tile).surprise

    return float(optimize.minimize_scalar(surprise, bounds=(0.0, _WIDEST_BLUR), options={"xatol": 0.01}).x)


class Evidence:
    """Pools what several images of one stay say about each column.

    Parameters
    ----------
    model : ColumnModel
        Tells the classes.
    columns : int
        How many there are in the map.
    """

    def __init__(self, model: ColumnModel, columns: int) -> None:
        self._model = model
        shape = (columns, len(model.names))
        self.seen = np.zeros(columns, bool)
        """Which columns were looked at at all."""
        self._precision, self._deviation, self._log = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._images = np.zeros(columns)

    def add(self, measured: Measured) -> None:
        """Take in an image."""
        k, variance = measured.index, measured.variance
        away = measured.amplitude[:, None] - self._model.levels
        self._log[k] -= (away**2 / variance + np.log(2 * np.pi * variance)) / 2
        self._precision[k] += 1 / variance
        self._deviation[k] += away / variance
        self._images[k] += 1
        self.seen[k] = True

    def log_likelihood(self, names: Sequence[str]) -> FloatArray:
        """Return the logarithm of how likely the images are for classes of each column, ``(N, len(names))``.

        The scatter of a class is the same in all images: more of them do not average it out.
        """
        unknown = [name for name in names if name not in self._model.names]
        if unknown:
            raise StemAeError(f"The class {unknown[0]!r} is not known: choose from {', '.join(self._model.names)}.")
        scatter2 = self._model.scatter**2
        shrunk = 1 + scatter2 * self._precision
        log = self._log - np.log(shrunk) / 2 + scatter2 * self._deviation**2 / shrunk / 2
        stray = np.log(_STRAY) - self._images * np.log(2 * self._model.levels.max())
        both: FloatArray = np.logaddexp(log, stray[:, None])
        return both[:, [self._model.names.index(name) for name in names]]


def _by_counts(names: NDArray[np.str_], amplitude: FloatArray, ladder: Sequence[str]) -> NDArray[np.str_]:
    """Return the class of each column, those of the ladder by their counts: few misread columns spoil a rare class.

    Parameters
    ----------
    names : (K,) array
        As found.
    amplitude : (K,) array
        Å².
    ladder : sequence of str
        As for :func:`by_ladder`; unless the last class is empty, nothing is said about the others' brightness.
    """
    on_ladder = np.isin(names, ladder)
    if ladder[-1] or not on_ladder.any():
        return names
    steps = np.array([name for name in ladder if name])
    frequent = np.array([np.sum(names == name) for name in steps])
    usual = int(frequent.argmax())
    middle = np.median(amplitude[names == steps[usual]])
    spread = 1.4826 * np.median(np.abs(amplitude[names == steps[usual]] - middle)) + _LEAST_SCATTER * middle
    levels = middle / atoms_left(steps[usual], ladder) * np.array([atoms_left(name, ladder) for name in steps])
    away = (amplitude[on_ladder, None] - levels) / spread
    result = names.astype(np.result_type(names, steps))  # a class that was not found may have a longer name
    result[on_ladder] = steps[np.argmax(np.log(frequent + 0.5) - away**2 / 2, axis=1)]
    return result


def _centred(pattern: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    image: FloatArray = pattern.reshape(shape) - pattern.mean()
    return image


def _joined(parts: Sequence[Measured]) -> Measured:
    """Return several measurements as one; a column that two of them show counts where it came first."""
    index, first = np.unique(np.concatenate([part.index for part in parts]), return_index=True)
    amplitude, variance = (np.concatenate([getattr(p, name) for p in parts]) for name in ("amplitude", "variance"))
    return Measured(index, amplitude[first], variance[first])


def _tiles(scan: Scan, atoms: Atoms2D) -> list[Region]:
    """Return rectangles that cover the atoms of a scan; their rims overlap."""
    x0, y0, x1, y1 = scan.region
    across, down = (np.arange(start, end - 2 * _UNKNOWN, _TILE - 2 * RIM) for start, end in ((x0, x1), (y0, y1)))
    tiles = [(x, y, min(x + _TILE, x1), min(y + _TILE, y1)) for y in down.tolist() for x in across.tolist()]
    return [tile for tile in tiles if _within(atoms.positions, tile, 0.0).any()]


def _busiest_tile(scan: Scan, atoms: Atoms2D) -> Region:
    """Return the tile with most atoms."""
    return max(_tiles(scan, atoms), key=lambda tile: int(_within(atoms.positions, tile, 0.0).sum()))


def _known_field(atoms: Atoms2D, positions: FloatArray) -> Region:
    """Return where the columns of the map make all of an image; at its rim there are others, which it does not have."""
    x, y = np.mean(positions - atoms.positions, axis=0).tolist()
    (height, width), (dy, dx) = atoms.shape, atoms.known_sampling
    whole = (x - dx / 2, y - dy / 2, x + (width - 0.5) * dx, y + (height - 0.5) * dy)
    return _grown(whole, -_UNKNOWN)


def _grown(region: Region, margin: float) -> Region:
    x0, y0, x1, y1 = region
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


def _common(one: Region, other: Region) -> Region:
    """Return what two regions share."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _within(positions: FloatArray, region: Region, margin: float) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = region
    x, y = positions.T
    inside: NDArray[np.bool_] = (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)
    return inside


def _pixels(scan: Scan, region: Region) -> IntArray:
    """Return the flat indices of the pixels of a region, as far as the image goes."""
    height, width = scan.image.shape
    left, top = np.ceil((np.array(region[:2]) - scan.origin) / scan.sampling - 1e-6).astype(int)
    right, bottom = np.ceil((np.array(region[2:]) - scan.origin) / scan.sampling - 1e-6).astype(int)
    rows = np.arange(max(top, 0), min(bottom, height))
    columns = np.arange(max(left, 0), min(right, width))
    flat: IntArray = (rows[:, None] * width + columns).ravel()
    return flat
