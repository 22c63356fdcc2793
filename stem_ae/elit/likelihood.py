"""Positions by maximum likelihood: every atom of a frame fitted together, and how well each is known.

The local image model is ``mu(r) = b(r) + sum_i A_i exp(-(r - r_i)^T M (r - r_i) / 2)``: one probe for the frame,
learnt from it; a background that varies slowly; neighbours that overlap, fitted jointly; the tails of heavy atoms
taken off, and atoms just beyond the frame's edge fitted with the others. The noise is that of counting, whatever the
gain and offset of the recorded numbers: ``variance = gain * mu + floor``, learnt from the residual; where it is more,
around single atoms, their covariance says so. Gauss-Newton steps for all unknowns are solved by conjugate gradients
with the sparse derivative of the image, so that overlapping neighbours, the background and the probe are accounted for
exactly.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csc_matrix, csr_matrix
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_PIXELS_PER_SIGMA = 1.6  # pixels are binned down to about this, which widens the bound by 3 %
_WINDOW = 2.6  # half width of an atom's window in units of the probe's sigma, at least
_TAILS = 4.2  # the same of what is not fitted but taken off: the tails of heavy atoms push light neighbours
_NODE_SPACING = 8.0  # Å between the nodes of the background
_LARGEST_STEP = 0.15  # Å per iteration
_LARGEST_MOVE = 0.6  # Å from where detection saw the atom: beyond, the fit has lost it
_NEIGHBOURS = 3  # that are as unknown as the atom itself when its covariance is stated
_STRIP = 0.4  # Å along the frame's edge, where atoms beyond it are looked for
_NOISE_WIDTH = 6.0  # Å: noise is measured over twice this; less, and the measure itself is noise
_BORDER = 2  # pixels of the frame's border that do not count there
_LEAST_EXCESS = 0.4
_ROUGH, _PRECISE = 0.1, 0.03  # of linear equations, in the first step and in the others
_DAMPING = 0.01  # of the conjugate gradients, relative to each unknown's own information


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """Result of :func:`fit`.

    Attributes
    ----------
    positions : (N, 2) array
        x, y in Å.
    covariance : (N, 2, 2) array
        Å²: the inverse of the Fisher information.
    amplitude : (N,) array
        Height of each atom above the background, in the image's units.
    amplitude_std : (N,) array
        Its standard deviation.
    probe : (2, 2) array
        Covariance of the probe in Å² (thermal motion and pixel size included).
    converged : (N,) bool array
        False where the fit ran away; position and covariance are then of no use.
    """

    positions: FloatArray
    covariance: FloatArray
    amplitude: FloatArray
    amplitude_std: FloatArray
    probe: FloatArray
    converged: NDArray[np.bool_]
    _frame: _Frame
    _state: _State

    @property
    def sigma(self) -> float:
        """Width of the probe in Å, the root mean square of its axes."""
        return float(np.sqrt(np.trace(self.probe) / 2))

    @property
    def heights(self) -> FloatArray:
        """Where the image's lines are, several scan lines binned into one: y in Å, ``(L,)``."""
        frame = self._frame
        heights: FloatArray = frame.origin[1] + np.arange(len(frame.data)) * frame.step[1]
        return heights

    def equations(self, positions: FloatArray, shifts: FloatArray) -> Equations:
        """Return the normal equations of the atoms' x and of the lines' shifts, at other positions and shifts.

        See :meth:`refitted` for the arguments.
        """
        frame, state = self._held(positions, shifts)
        return _equations(state, _Model.at(frame, state))

    def pulls(self, positions: FloatArray, shifts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the right side of the equations, in 1/Å: for atoms ``(M,)``, and for lines and shear ``(L + 1,)``.

        It has not been divided by their excess.

        See :meth:`refitted` for the arguments.
        """
        frame, state = self._held(positions, shifts)
        return _pulls(state, _Model.at(frame, state))

    def refitted(self, positions: FloatArray, shifts: FloatArray) -> Fit:
        """Return the fit after two more steps, with lines that are known to be shifted.

        Parameters
        ----------
        positions : (N, 2) array
            Where to start, in Å, without the shifts.
        shifts : (L,) array
            Å along x by which each line, at :attr:`heights`, shows the atoms too far right.
        """
        frame, start = self._held(positions, shifts)
        state = start
        for _ in range(2):
            state = _step(state, _Model.at(frame, state), start.positions, _PRECISE)
        return _summary(frame, state, start.positions, len(positions))

    def _held(self, positions: FloatArray, shifts: FloatArray) -> tuple[_Frame, _State]:
        """Return the frame with its lines in place, and the state with the atoms at other positions."""
        everyone = self._state.positions.copy()
        everyone[: len(positions)] = positions
        state = dataclasses.replace(self._state, positions=everyone)
        return dataclasses.replace(self._frame, shifts=shifts).with_tails(state), state


@dataclasses.dataclass(frozen=True, eq=False)
class Equations:
    """Information about the atoms' x and the lines' shifts, in 1/Å²; everything else is held.

    After the shifts comes one unknown more: how far all atoms are sheared, each by itself. An oval probe does the same,
    so that nothing must be read from it.

    Attributes
    ----------
    atoms : (M, M) sparse matrix
        About the atoms, those beyond the frame's edge after the others.
    lines : (L + 1, L + 1) array
        About the lines, and the shear.
    both : (M, L + 1) sparse matrix
        What they share.
    heights : (M,) array
        y of the atoms in Å.
    excess : float
        By what the information has been divided: the square of what is left of the image, in units of its noise.
    """

    atoms: csr_matrix
    lines: FloatArray
    both: csr_matrix
    heights: FloatArray
    excess: float


def fit(
    image: Image, sampling: tuple[float, float], seeds: FloatArray, sigma: float = 0.45, iterations: int = 4
) -> Fit:
    """Fit all atoms of a frame.

    Parameters
    ----------
    image : (H, W) array
        Any gain and offset; finite; bad pixels repaired.
    sampling : (float, float)
        Å per pixel, ``(y, x)``.
    seeds : (N, 2) array
        Positions in Å to start from, good to about 0.3 Å.
    sigma : float
        First guess of the probe in Å.
    iterations : int
        Gauss-Newton steps.
    """
    frame, everyone = _Frame.binned(image, sampling, sigma), seeds
    state = _State.start(frame, seeds, sigma)
    for step in range(iterations):
        if step:
            frame = frame.with_tails(state)
        model = _Model.at(frame, state)
        if step:
            beyond = _beyond_the_edge(state, model)
            if len(beyond):
                everyone, state = np.concatenate([everyone, beyond]), state.joined_by(beyond)
                model = _Model.at(frame, state)
        state = _step(state, model, everyone, _PRECISE if step else _ROUGH)
    return _summary(frame, state, everyone, len(seeds))


# --- the data and the unknowns ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """The binned image, the Å of its pixel (0, 0) and of its steps, x then y, and the averaged pixels in each."""

    data: Image
    origin: FloatArray
    step: FloatArray
    reach: int  # half width of the atoms' windows in pixels
    tails: Image  # what the atoms add to the image beyond their windows
    shifts: FloatArray  # (rows,) Å by which each row is known to show the atoms too far right

    @classmethod
    def binned(cls, image: Image, sampling: tuple[float, float], sigma: float) -> _Frame:
        """Bin by whole pixels, so that the noise stays independent from pixel to pixel."""
        fy, fx = (max(1, round(sigma / _PIXELS_PER_SIGMA / d)) for d in sampling)
        h, w = image.shape[0] // fy, image.shape[1] // fx
        cropped = image[: h * fy, : w * fx]
        data: Image = cropped.reshape(h, fy, w * fx).sum(1).reshape(h, w, fx).sum(2) / np.float32(fx * fy)
        origin = np.array([(fx - 1) / 2 * sampling[1], (fy - 1) / 2 * sampling[0]])
        step = np.array([fx * sampling[1], fy * sampling[0]])
        reach = _pixels(_WINDOW * sigma, step)
        return cls(data.astype(np.float32), origin, step, reach, np.zeros_like(data, np.float32), np.zeros(h))

    def with_tails(self, state: _State) -> _Frame:
        """Return the frame knowing the atoms' tails, with windows that suit the probe."""
        sigma = float(np.sqrt(np.trace(state.probe) / 2))
        reach, far = (_pixels(width * sigma, self.step) for width in (_WINDOW, _TAILS))
        windows = _Windows.at(self, state, reach, far)
        return dataclasses.replace(self, reach=reach, tails=windows.image(windows.heights(state)[0]))

    @functools.cached_property
    def hats(self) -> tuple[Image, Image]:
        """Bilinear interpolation from background nodes to rows, and to columns."""
        rows, columns = self.data.shape
        return _hat_matrix(rows, float(self.step[1])), _hat_matrix(columns, float(self.step[0]))


def _pixels(length: float, step: FloatArray) -> int:
    return int(np.ceil(length / step.min()))


@functools.lru_cache(maxsize=32)
def _hat_matrix(n: int, step: float) -> Image:
    count = max(2, round((n - 1) * step / _NODE_SPACING) + 1)
    at = np.linspace(0, count - 1, n)
    weight: Image = np.clip(1 - np.abs(at[:, None] - np.arange(count)), 0, None).astype(np.float32)
    return weight


@dataclasses.dataclass(frozen=True, eq=False)
class _State:
    """All unknowns, and the noise."""

    positions: FloatArray  # (N, 2) Å
    amplitude: FloatArray  # (N,)
    nodes: FloatArray  # background at its nodes
    probe: FloatArray  # (2, 2) Å²
    gain: float  # variance = gain * (mu - lowest) + floor
    floor: float
    lowest: float

    @classmethod
    def start(cls, frame: _Frame, seeds: FloatArray, sigma: float) -> _State:
        low, high = (float(q) for q in np.percentile(frame.data[::2, ::2], [5, 95]))
        rows, columns = frame.hats
        return cls(
            seeds.astype(float).copy(), np.full(len(seeds), max(high - low, 1e-9)),
            np.full((rows.shape[1], columns.shape[1]), low), np.eye(2) * sigma**2, 0.0, float(frame.data.var()), low,
        )

    def joined_by(self, positions: FloatArray) -> _State:
        """Return the state with more atoms, half as high as is usual until they are fitted."""
        amplitude = np.full(len(positions), 0.5 * float(np.median(self.amplitude)))
        return dataclasses.replace(
            self,
            positions=np.concatenate([self.positions, positions]),
            amplitude=np.concatenate([self.amplitude, amplitude]),
        )

    @property
    def precision(self) -> FloatArray:
        return np.asarray(np.linalg.inv(self.probe), dtype=float)

    def weight(self, mean: Image) -> Image:
        """Return one over the variance of each pixel."""
        weight: Image = (1 / (self.gain * np.maximum(mean - self.lowest, 0) + self.floor)).astype(np.float32)
        return weight


@dataclasses.dataclass(frozen=True, eq=False)
class _Windows:
    """The pixels around each atom, ``(N, P)`` of them.

    Windows reach beyond the frame's edge, so the arithmetic is on flat images with a margin, where nothing counts.
    """

    shape: tuple[int, int]  # of the image, without the margin
    margin: int
    index: NDArray[np.int32]  # (N, P) of the pixels in the flat image
    away: tuple[NDArray[np.float32], NDArray[np.float32]]  # (N, P) each: Å from the atom, x and y

    @classmethod
    def at(cls, frame: _Frame, state: _State, inner: int, outer: int) -> _Windows:
        """Return the pixels further than ``inner`` pixels from each atom and no further than ``outer``."""
        h, w = frame.data.shape
        margin = outer + 2
        oy, ox = (grid.astype(np.int32) for grid in np.mgrid[-outer : outer + 1, -outer : outer + 1])
        ring = (np.hypot(oy, ox) <= outer + 0.5) & (np.hypot(oy, ox) > inner + 0.5)
        oy, ox = oy[ring], ox[ring]
        pixel = (state.positions - frame.origin) / frame.step
        # Windows of atoms beyond the edge must still lie within the margin.
        centre = np.clip(np.rint(pixel), -1, [w, h]).astype(np.int32)
        start = ((centre - pixel) * frame.step).astype(np.float32)
        away_x = start[:, :1] + (ox * frame.step[0]).astype(np.float32)
        away_y = start[:, 1:] + (oy * frame.step[1]).astype(np.float32)
        if frame.shifts.any():
            away_x = away_x - frame.shifts.astype(np.float32)[np.clip(centre[:, 1:] + oy, 0, h - 1)]
        index = (centre[:, 1:] + margin) * np.int32(w + 2 * margin) + centre[:, :1] + margin
        return cls((h, w), margin, index + (oy * np.int32(w + 2 * margin) + ox), (away_x, away_y))

    def heights(self, state: _State) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return what the atoms add there, and the derivative of its logarithm with respect to x and y."""
        x, y = self.away
        (a, b), (_, c) = state.precision.astype(np.float32)
        pull_x, pull_y = a * x + b * y, b * x + c * y
        height = state.amplitude[:, None].astype(np.float32) * np.exp(-0.5 * (pull_x * x + pull_y * y))
        return height, pull_x, pull_y

    def flat(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sum of all windows as a flat image."""
        (h, w), m = self.shape, self.margin
        return np.bincount(self.index.ravel(), values.ravel(), (h + 2 * m) * (w + 2 * m)).astype(np.float32)

    def image(self, values: NDArray[np.float32]) -> Image:
        """Return the sum of all windows, without the margin."""
        return self.trimmed(self.flat(values))

    def trimmed(self, flat: NDArray[np.float32]) -> Image:
        """Return an image without the margin, from a flat one."""
        (h, w), m = self.shape, self.margin
        return flat.reshape(h + 2 * m, w + 2 * m)[m : m + h, m : m + w]

    def padded(self, image: Image) -> NDArray[np.float32]:
        """Return an image with the margin, flat."""
        return np.pad(image, self.margin).ravel()


@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """The image at one state, and its derivative with respect to every unknown.

    Unknowns are in this order: all x, all y, all amplitudes, the nodes of the background, and the probe's xx, xy, yy.
    """

    frame: _Frame
    windows: _Windows
    columns: NDArray[np.float32]  # (3, N, P) derivative with respect to x, y and amplitude in each atom's window
    pull: tuple[NDArray[np.float32], NDArray[np.float32]]  # (N, P) each: see _Windows.heights
    mean: Image  # (h, w)

    @classmethod
    def at(cls, frame: _Frame, state: _State) -> _Model:
        windows = _Windows.at(frame, state, -1, frame.reach)
        height, pull_x, pull_y = windows.heights(state)
        shape = height / state.amplitude[:, None].astype(np.float32)
        background = frame.hats[0] @ state.nodes.astype(np.float32) @ frame.hats[1].T
        mean = windows.image(height) + frame.tails + background
        return cls(frame, windows, np.stack([height * pull_x, height * pull_y, shape]), (pull_x, pull_y), mean)

    @functools.cached_property
    def probe(self) -> NDArray[np.float32]:
        """Derivative of the flat image with respect to the probe, ``(3, pixels)``."""
        # d shape / d probe = shape * pull pull^T / 2; the off-diagonal element counts twice.
        (slope_x, slope_y, _), (x, y) = self.columns, self.pull
        return np.stack([self.windows.flat(v) for v in (0.5 * slope_x * x, slope_x * y, 0.5 * slope_y * y)])

    @functools.cached_property
    def _hats(self) -> tuple[Image, Image]:
        rows, columns = self.frame.hats
        margin = ((self.windows.margin, self.windows.margin), (0, 0))
        return np.pad(rows, margin), np.pad(columns, margin)

    @functools.cached_property
    def _sparse(self) -> csc_matrix:
        _, n, p = self.columns.shape
        pointer = np.arange(3 * n + 1, dtype=np.int32) * np.int32(p)
        index = np.tile(self.windows.index.ravel(), 3)
        return csc_matrix((self.columns.ravel(), index, pointer), (self.probe.shape[1], 3 * n))

    @property
    def along_x(self) -> csc_matrix:
        """Derivative of the flat image with respect to each atom's x, ``(pixels, N)``."""
        return self._sparse[:, : len(self.columns[0])].astype(float)

    @functools.cached_property
    def _transposed(self) -> csr_matrix:
        return self._sparse.T

    def forward(self, change: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how the flat image changes with the unknowns."""
        rows, columns = self._hats
        atoms = self._sparse.shape[1]
        nodes = change[atoms:-3].reshape(rows.shape[1], columns.shape[1])
        image: NDArray[np.float32] = self._sparse @ change[:atoms]
        image += ((rows @ nodes) @ columns.T).ravel()
        image += change[-3:] @ self.probe
        return image

    def backward(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the derivative's transpose times a flat image."""
        rows, columns = self._hats
        nodes = (rows.T @ (flat.reshape(len(rows), len(columns)) @ columns)).ravel()
        return np.concatenate([self._transposed @ flat, nodes, self.probe @ flat])

    def diagonal(self, weight: Image) -> NDArray[np.float32]:
        """Return the diagonal of the Fisher information."""
        rows, columns = self.frame.hats
        flat = self.windows.padded(weight)
        atoms = np.einsum("knp,knp,np->kn", self.columns, self.columns, flat[self.windows.index]).ravel()
        nodes = ((rows**2).T @ weight @ columns**2).ravel()
        return np.concatenate([atoms, nodes, self.probe**2 @ flat])


# --- the fit ----------------------------------------------------------------------------------------------------------


def _step(state: _State, model: _Model, seeds: FloatArray, precision: float) -> _State:
    """One Gauss-Newton step for all unknowns."""
    frame = model.frame
    state = _with_noise(state, model)
    change = _solve(state, model, frame.data - model.mean, precision)
    n = len(state.positions)
    move = change[: 2 * n].reshape(2, n).T
    positions = state.positions + _shortened(move, _LARGEST_STEP)
    return dataclasses.replace(
        state,
        positions=seeds + _shortened(positions - seeds, _LARGEST_MOVE),
        amplitude=np.maximum(state.amplitude + change[2 * n : 3 * n], 0.02 * np.median(state.amplitude)),
        nodes=state.nodes + change[3 * n : -3].reshape(state.nodes.shape),
        probe=_changed_probe(state.probe, change[-3:], float(frame.step.max())),
    )


def _shortened(vectors: FloatArray, longest: float) -> FloatArray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: FloatArray = vectors * np.minimum(1, longest / np.maximum(length, 1e-12))
    return result


def _changed_probe(probe: FloatArray, change: FloatArray, pixel: float) -> FloatArray:
    limit = 0.5 * float(np.trace(probe)) / 2
    xx, xy, yy = np.clip(change, -limit, limit)
    values, vectors = np.linalg.eigh(probe + np.array([[xx, xy], [xy, yy]]))
    result: FloatArray = (vectors * np.clip(values, max(0.15, 0.4 * pixel) ** 2, 1.2**2)) @ vectors.T
    return result


def _solve(state: _State, model: _Model, residual: Image, precision: float) -> FloatArray:
    """Return the change of all unknowns that explains a residual best.

    The damped normal equations are solved by conjugate gradients, every unknown scaled to unit information.
    """
    weight = state.weight(model.mean)
    flat = model.windows.padded(weight)
    gradient = model.backward(model.windows.padded(weight * residual))
    scale = 1 / np.sqrt(np.maximum(model.diagonal(weight), 1e-30))

    def information(unknowns: NDArray[np.float32]) -> NDArray[np.float32]:
        change = np.asarray(unknowns * scale, np.float32)
        return np.asarray(model.backward(flat * model.forward(change)) * scale + _DAMPING * unknowns, np.float32)

    size = len(gradient)
    operator = LinearOperator((size, size), information, dtype=np.float32)
    solution, _ = cg(operator, gradient * scale, rtol=precision, maxiter=20)
    return np.asarray(solution * scale, dtype=float)


def _with_noise(state: _State, model: _Model) -> _State:
    """Fit ``variance = gain * (mu - lowest) + floor`` to the squared noise, in groups of like brightness.

    The noise is what squares of four pixels differ by in both directions at once: there, neither what the model misses
    nor what it has taken up of the noise counts.
    """
    data = model.frame.data
    every = max(1, data.size // 32000)
    mean = _in_fours(model.mean, 0.25, 0.25)[::every]
    square = _in_fours(data - model.mean, 0.5, -0.5)[::every] ** 2
    lowest = float(np.percentile(mean, 1))
    groups = np.array_split(np.argsort(mean), 10)
    brightness = np.array([mean[g].mean() for g in groups], dtype=float) - lowest
    # Single bad pixels must not count: no square above sixteen times the usual.
    spread = np.array([np.minimum(square[g], 16 * square[g].mean()).mean() for g in groups], dtype=float) + 1e-30
    design = np.column_stack([brightness, np.ones(len(groups))]) / spread[:, None]
    gain, floor = np.linalg.lstsq(design, np.ones(len(groups)), rcond=None)[0]
    if gain <= 0:
        gain, floor = 0.0, spread.mean()
    return dataclasses.replace(state, gain=float(gain), floor=max(float(floor), 0.05 * spread.min()), lowest=lowest)


def _in_fours(image: Image, same: float, other: float) -> Image:
    """Return a combination of the four pixels of each square, flat: equal along its diagonals."""
    h, w = (2 * (n // 2) for n in image.shape)
    even, odd = image[:h:2], image[1:h:2]
    result: Image = same * (even[:, :w:2] + odd[:, 1:w:2]) + other * (even[:, 1:w:2] + odd[:, :w:2])
    return result.ravel()


def _beyond_the_edge(state: _State, model: _Model) -> FloatArray:
    """Return where atoms outside the frame shine into it: left out, they would push the outermost atoms inwards."""
    frame, mean = model.frame, model.mean
    residual = (frame.data - mean) * np.sqrt(state.weight(mean))
    sigma = float(np.sqrt(np.trace(state.probe) / 2))
    width, height = (np.array(frame.data.shape[::-1]) - 1) * frame.step
    columns, rows = (max(1, round(_STRIP / step)) for step in frame.step)
    sides = [  # strip along the edge, step along it, where it is across, and which coordinate runs along it
        (residual[:rows], frame.step[0], -0.7 * sigma, 0),
        (residual[-rows:], frame.step[0], height + 0.7 * sigma, 0),
        (residual[:, :columns].T, frame.step[1], -0.7 * sigma, 1),
        (residual[:, -columns:].T, frame.step[1], width + 0.7 * sigma, 1),
    ]
    found = []
    for strip, step, across, axis in sides:
        blur = sigma / step
        profile = ndimage.gaussian_filter1d(strip.mean(0), blur, mode="nearest")
        # Averaging the strip and, along the edge, a Gaussian of this width leaves this much of unit noise.
        noise = np.sqrt(1 / len(strip) / (2 * np.sqrt(np.pi) * max(blur, 0.3)))
        apart = max(3, 2 * round(0.6 / step) + 1)
        peaks = np.flatnonzero((profile == ndimage.maximum_filter1d(profile, apart)) & (profile > 4 * noise))
        points = np.empty((len(peaks), 2))
        points[:, axis], points[:, 1 - axis] = peaks * step, across
        found.append(points + frame.origin)
    return np.concatenate(found)


# --- what is known in the end -----------------------------------------------------------------------------------------


def _summary(frame: _Frame, state: _State, seeds: FloatArray, count: int) -> Fit:
    """Return the fit of the first ``count`` atoms; the others lie beyond the edge."""
    model = _Model.at(frame, state)
    state = _with_noise(state, model)
    covariance = _covariance(frame, state, model)
    covariance = (covariance * _correction(frame, state, model, covariance)[:, None, None])[:count]
    lost = np.linalg.norm(state.positions - seeds, axis=1)[:count] > 0.99 * _LARGEST_MOVE
    lost |= ~np.isfinite(covariance).all((1, 2)) | (np.diagonal(covariance, axis1=1, axis2=2) <= 0).any(1)
    return Fit(
        state.positions[:count],
        covariance[:, :2, :2],
        state.amplitude[:count],
        np.sqrt(np.maximum(covariance[:, 2, 2], 0)),
        state.probe,
        ~lost,
        frame,
        state,
    )


def _equations(state: _State, model: _Model) -> Equations:
    weight = state.weight(model.mean)
    excess = max(1.0, float(np.mean(weight * (model.frame.data - model.mean) ** 2)))
    flat = model.windows.padded(weight).astype(float)[:, None] / excess
    slope, shear, row = _line_slopes(model)
    h = model.windows.shape[0]
    entries = np.concatenate([slope, shear]), (np.tile(np.arange(len(row)), 2), np.append(row, np.full(len(row), h)))
    lines = csr_matrix(entries, (len(row), h + 1))
    atoms = model.along_x
    weighted = lines.multiply(flat).tocsr()
    own, both = (atoms.T @ atoms.multiply(flat).tocsr()).tocsr(), (atoms.T @ weighted).tocsr()
    return Equations(own, (lines.T @ weighted).toarray(), both, state.positions[:, 1], excess)


def _pulls(state: _State, model: _Model) -> tuple[FloatArray, FloatArray]:
    windows = model.windows
    residual = windows.padded(state.weight(model.mean) * (model.frame.data - model.mean))
    slope, shear, row = _line_slopes(model)
    lines = np.bincount(row, slope * residual, windows.shape[0])
    atoms = (model.columns[0] * residual[windows.index]).sum(1, dtype=float)
    return atoms, np.append(lines, float((shear * residual).sum(dtype=float)))


def _line_slopes(model: _Model) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return how the flat image changes if all is shifted along x, or each atom sheared by itself; and pixels' rows."""
    windows = model.windows
    (h, w), m = windows.shape, windows.margin
    row = np.clip(np.arange((h + 2 * m) * (w + 2 * m)) // (w + 2 * m) - m, 0, h - 1)
    return windows.flat(model.columns[0]), windows.flat(model.columns[0] * windows.away[1]), row


def _covariance(frame: _Frame, state: _State, model: _Model) -> FloatArray:
    """Return each atom's 3 x 3 covariance (x, y, amplitude), its nearest neighbours being as unknown as itself."""
    n = len(state.positions)
    k = min(_NEIGHBOURS, n - 1)
    weight = state.weight(model.mean)
    seen = model.windows.padded(weight)[model.windows.index]
    own = np.einsum("anp,bnp,np->nab", model.columns, model.columns, seen, optimize=True)
    near = cKDTree(state.positions).query(state.positions, k=k + 1)[1].reshape(n, k + 1)
    local = np.zeros((n, k + 1, 3, k + 1, 3))
    cut = np.flatnonzero((seen == 0).any(1))  # by the frame's edge: where neighbours overlap may be out of view
    for a in range(k + 1):
        local[:, a, :, a, :] = own[near[:, a]]
        for b in range(a):
            shared = _overlap(frame, state, weight, near[:, a], near[:, b])
            shared[cut] = _overlap_in_view(state, model, seen, near[cut, a], near[cut, b])
            local[:, a, :, b, :] = shared
            local[:, b, :, a, :] = shared.transpose(0, 2, 1)
    matrix = local.reshape(n, 3 * (k + 1), -1)
    scale = 1 / np.sqrt(np.maximum(np.diagonal(matrix, axis1=1, axis2=2), 1e-30))
    matrix = matrix * scale[:, :, None] * scale[:, None, :] + 1e-3 * np.eye(matrix.shape[-1])
    right = np.broadcast_to(np.eye(matrix.shape[-1])[:, :3], (n, matrix.shape[-1], 3))
    inverse = np.linalg.solve(matrix, right)[:, :3] * scale[:, :3, None] * scale[:, None, :3]
    return np.asarray(inverse, dtype=float)


def _overlap(
    frame: _Frame, state: _State, weight: Image, i: NDArray[np.int64], j: NDArray[np.int64]
) -> FloatArray:
    """Return the 3 x 3 information that pairs share: the integral of two Gaussians is one of their distance."""
    d = state.positions[i] - state.positions[j]
    pull = d @ state.precision
    middle = ((state.positions[i] + state.positions[j]) / 2 - frame.origin) / frame.step
    c = np.clip(np.rint(middle), 0, np.array(weight.shape[::-1]) - 1).astype(int)
    integral = np.pi * np.sqrt(np.linalg.det(state.probe)) * np.exp(-0.25 * (pull * d).sum(1)) / frame.step.prod()
    integral = integral * weight[c[:, 1], c[:, 0]]
    ai, aj = state.amplitude[i], state.amplitude[j]
    blocks = np.empty((len(i), 3, 3))
    curvature = state.precision / 2 - pull[:, :, None] * pull[:, None, :] / 4
    blocks[:, :2, :2] = (ai * aj * integral)[:, None, None] * curvature
    blocks[:, :2, 2] = -0.5 * (ai * integral)[:, None] * pull
    blocks[:, 2, :2] = 0.5 * (aj * integral)[:, None] * pull
    blocks[:, 2, 2] = integral
    return blocks


def _overlap_in_view(
    state: _State, model: _Model, seen: NDArray[np.float32], i: NDArray[np.int64], j: NDArray[np.int64]
) -> FloatArray:
    """Return the same, summed over the pixels of the first atom's window, of which the weights ``(N, P)`` are known."""
    away = (state.positions[i] - state.positions[j]).astype(np.float32)
    x, y = (along[i] + away[:, axis, None] for axis, along in enumerate(model.windows.away))
    (a, b), (_, c) = state.precision.astype(np.float32)
    pull_x, pull_y = a * x + b * y, b * x + c * y
    shape = np.exp(-0.5 * (pull_x * x + pull_y * y))
    height = state.amplitude[j, None].astype(np.float32) * shape
    others = np.stack([height * pull_x, height * pull_y, shape])
    return np.asarray(np.einsum("anp,bnp,np->nab", model.columns[:, i], others, seen[i], optimize=True), dtype=float)


def _correction(frame: _Frame, state: _State, model: _Model, covariance: FloatArray) -> FloatArray:
    """Return what each atom's covariance ``(N, 3, 3)`` must be multiplied by, ``(N,)``.

    The noise of counting is drawn anew and fitted like the image, one linear step. What the atoms move by shows what
    all the others, the background and the probe being unknown costs. What is left, compared with what the image's fit
    leaves around each atom, shows by how much its noise exceeds that of counting on the scale of an atom: where the
    image was smoothed, where contamination has a grain, where the model does not fit.
    """
    n = len(state.positions)
    weight = state.weight(model.mean)
    drawn = np.random.default_rng(0).standard_normal(weight.shape, np.float32)
    noise = (drawn / np.sqrt(weight)).astype(np.float32)
    change = _solve(state, model, noise, _PRECISE)
    stated = np.diagonal(covariance, axis1=1, axis2=2)[:, :2]
    moved = change[: 2 * n].reshape(2, n).T ** 2
    others = float(np.median(moved / stated)) / 0.4549
    fitted = model.windows.trimmed(model.forward(np.asarray(change, np.float32)))
    usual = float(np.mean(_power(np.sqrt(weight) * (noise - fitted), frame.step)))
    power = _power(np.sqrt(weight) * (frame.data - model.mean), frame.step)
    pixel = np.rint((state.positions - frame.origin) / frame.step).astype(int) - _BORDER
    x, y = np.clip(pixel, 0, np.array(power.shape[::-1]) - 1).T
    return np.asarray(others * np.maximum(power[y, x] / usual, _LEAST_EXCESS), dtype=float)


def _power(residual: Image, step: FloatArray) -> Image:
    """Return what neighbouring pixels of a residual share, around each pixel but those of the border.

    There, atoms beyond the frame leave what is not the noise of those inside.
    """
    power = residual * ndimage.uniform_filter(residual, 3, mode="constant") * 9
    power = power[_BORDER:-_BORDER, _BORDER:-_BORDER]
    for _ in range(2):
        power = ndimage.uniform_filter(power, [max(1, round(_NOISE_WIDTH / size)) for size in step[::-1]])
    return np.asarray(power, dtype=np.float32)
