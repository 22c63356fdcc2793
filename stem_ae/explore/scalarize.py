"""One number from a spectrum or a diffraction pattern: the property an experiment looks for.

A scalarizer is a small frozen object with its settings as fields, so that a panel can show and store them, called with
data and its calibration. The leading axes of the data are kept: one spectrum gives one number, a stack gives as many.

    scalarize(spectrum, energy, {"edge / bulk": PeakRatio((14, 16), (21, 23)), "bulk": BandIntegral((21, 23))})

Spectra are ``(..., E)`` with the energies ``(E,)`` of their channels in eV, evenly spaced; patterns are ``(..., H, W)``
with a :class:`Reciprocal`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae import checks
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
Band = tuple[float, float]  # from, to, in eV


@dataclasses.dataclass(frozen=True)
class Reciprocal:
    """Calibration of a diffraction camera.

    Parameters
    ----------
    mrad_per_pixel : float
    centre : (float, float), optional
        Row and column of the undeflected beam in pixels; the middle of the pattern when not given.
    """

    mrad_per_pixel: float
    centre: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        checks.positive(abs(self.mrad_per_pixel), "The camera's calibration", unit="mrad per pixel")
        if self.centre is not None:
            checks.place(self.centre, "The centre of the patterns")

    def axes(self, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        """Return ``y (H, 1)`` and ``x (1, W)`` of every pixel in mrad."""
        middle = self.centre or ((shape[-2] - 1) / 2, (shape[-1] - 1) / 2)
        y: FloatArray = (np.arange(shape[-2], dtype=np.float64) - middle[0]) * self.mrad_per_pixel
        x: FloatArray = (np.arange(shape[-1], dtype=np.float64) - middle[1]) * self.mrad_per_pixel
        return y[:, None], x[None, :]


# --- spectra --------------------------------------------------------------------------------------------------------


def channel_share(energy: FloatArray, band: Band) -> FloatArray:
    """Return how much of each channel ``(E,)`` lies inside a band, 0 to 1.

    Raises
    ------
    StemAeError
        If the spectrum does not cover the band.
    """
    energy = np.asarray(energy, dtype=float)
    low, high = band
    if energy.ndim != 1 or len(energy) < 3:
        raise StemAeError("Give the energies of a spectrum's channels as one row of at least three numbers, in eV.")
    if not (np.isfinite(energy).all() and energy[0] != energy[-1]):
        raise StemAeError("The energies of a spectrum's channels are not finite, or all the same: calibrate its axis.")
    half = abs(energy[-1] - energy[0]) / (len(energy) - 1) / 2
    if not low < high:
        raise StemAeError(f"The band {low} to {high} eV is empty: give the lower energy first.")
    if low < energy.min() - half or high > energy.max() + half:
        raise StemAeError(
            f"The band {low} to {high} eV is not inside the spectrum ({energy.min():.6g} to {energy.max():.6g} eV)."
        )
    share: FloatArray = np.clip(
        (np.minimum(energy + half, high) - np.maximum(energy - half, low)) / (2 * half), 0.0, 1.0
    )
    return share


def channels_inside(energy: FloatArray, band: Band) -> NDArray[np.int64]:
    """Return the channels whose greater half lies inside a band; of a narrow band the one that most of it lies in.

    Raises
    ------
    StemAeError
        If the spectrum does not cover the band.
    """
    share = channel_share(energy, band)
    return np.flatnonzero(share > 0.5) if np.any(share > 0.5) else np.array([int(np.argmax(share))])


def band_integral(spectra: FloatArray, energy: FloatArray, band: Band) -> FloatArray:
    """Return the counts ``(...)`` inside a band; channels at its ends count by the part that lies inside."""
    counts: FloatArray = spectra @ channel_share(energy, band)
    return counts


@dataclasses.dataclass(frozen=True)
class BandIntegral:
    """Counts inside a band."""

    band: Band

    def __call__(self, spectra: FloatArray, energy: FloatArray) -> FloatArray:
        """Return counts ``(...)``."""
        return band_integral(spectra, energy, self.band)


@dataclasses.dataclass(frozen=True)
class PeakRatio:
    """Counts inside one band over counts inside another; NaN where the latter has none."""

    numerator: Band
    denominator: Band

    def __call__(self, spectra: FloatArray, energy: FloatArray) -> FloatArray:
        """Return the ratio ``(...)``."""
        above, below = (band_integral(spectra, energy, band) for band in (self.numerator, self.denominator))
        ratio: FloatArray = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
        return ratio


@dataclasses.dataclass(frozen=True)
class PeakMaximum:
    """Largest channel inside a band, in counts."""

    band: Band

    def __call__(self, spectra: FloatArray, energy: FloatArray) -> FloatArray:
        """Return counts ``(...)``."""
        largest: FloatArray = spectra[..., channels_inside(energy, self.band)].max(axis=-1)
        return largest


@dataclasses.dataclass(frozen=True)
class PeakPosition:
    """Energy of the peak inside a band: vertex of the parabola through the largest channel and its neighbours."""

    band: Band

    def __call__(self, spectra: FloatArray, energy: FloatArray) -> FloatArray:
        """Return energies ``(...)`` in eV."""
        inside = channels_inside(energy, self.band)
        top = inside[0] + spectra[..., inside].argmax(axis=-1)
        top = np.clip(top, 1, spectra.shape[-1] - 2)
        left, middle, right = (
            np.take_along_axis(spectra, (top + k)[..., None], axis=-1)[..., 0] for k in (-1, 0, 1)
        )
        bend = left - 2 * middle + right
        shift = np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend < 0)
        position: FloatArray = energy[top] + np.clip(shift, -0.5, 0.5) * (energy[1] - energy[0])
        return position


@dataclasses.dataclass(frozen=True)
class EdgeArea:
    """Counts of a core-loss edge above a power-law background ``A E^-r``.

    The background is found from its counts in the two halves of ``background`` (Egerton, Electron Energy-Loss
    Spectroscopy in the Electron Microscope, 3rd ed. (2011), section 4.4.2). With the halves split at the geometric mean
    the two-area formula is exact: ``1 - r = 2 ln(I2 / I1) / ln(E2 / E1)``. Sums of counts, unlike a fit of logarithms,
    are unbiased at few counts.
    """

    background: Band
    edge: Band

    def __call__(self, spectra: FloatArray, energy: FloatArray) -> FloatArray:
        """Return counts ``(...)``; NaN where the background window has none."""
        low, high = self.background
        if low <= 0:
            raise StemAeError("A power-law background needs energies above 0 eV.")
        middle = np.sqrt(low * high)
        first, second = (band_integral(spectra, energy, band) for band in ((low, middle), (middle, high)))
        usable = (first > 0) & (second > 0)
        quotient = np.divide(second, first, out=np.ones(np.shape(first)), where=usable)
        power = 2 * np.log(quotient) / np.log(high / low)  # 1 - r
        below = (first + second) * _power_integral(self.edge, power) / _power_integral(self.background, power)
        area: FloatArray = np.where(usable, band_integral(spectra, energy, self.edge) - below, np.nan)
        return area


def _power_integral(band: Band, power: FloatArray) -> FloatArray:
    """Return the integral of ``E^(power - 1)`` over a band."""
    low, high = band
    near_zero = np.abs(power) < 1e-9
    safe = np.where(near_zero, 1.0, power)
    integral: FloatArray = np.where(near_zero, np.log(high / low), (high**safe - low**safe) / safe)
    return integral


# --- any expression -------------------------------------------------------------------------------------------------


def _limited(name: str, *arguments: str) -> Callable[..., Any]:
    """Return a function of NumPy that takes these arguments and no others, such as where to write its result."""
    function = getattr(np, name)

    def call(*values: Any) -> Any:
        if not 1 <= len(values) <= len(arguments):
            raise StemAeError(f"{name} takes {', '.join(arguments)} and nothing else: {len(values)} were given.")
        named = dict(zip(arguments, values, strict=False))
        counts = {key: int(named.pop(key)) for key in ("axis", "times") if named.get(key) is not None}
        if "times" in counts:
            return function(*named.values(), counts["times"])
        return function(*named.values(), **counts)

    return call


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _limited(name, "values", "axis") for name in
       ("sum", "mean", "std", "median", "min", "max", "argmax", "argmin", "cumsum")},
    **{name: _limited(name, "values") for name in ("abs", "sqrt", "log", "exp", "sin", "cos")},
    "arctan2": _limited("arctan2", "y", "x"), "hypot": _limited("hypot", "y", "x"),
    "clip": _limited("clip", "values", "low", "high"), "where": _limited("where", "condition", "yes", "no"),
    "diff": _limited("diff", "values", "times"), "percentile": _limited("percentile", "values", "q", "axis"),
}  # fmt: skip
_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.BoolOp, ast.Call, ast.Name, ast.Load,
    ast.Constant, ast.Tuple, ast.Subscript, ast.Slice,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.FloorDiv, ast.USub, ast.UAdd, ast.And, ast.Or, ast.Not,
    ast.Invert, ast.BitAnd, ast.BitOr, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip
_LONGEST = 1000
_DEEPEST = 40  # levels of brackets, calls and signs: deeper ones are not read by people, and overflow Python's stack
_NEW_AXES = 1  # that an expression may add to an array: more would fill the memory


@dataclasses.dataclass(frozen=True)
class Expression:
    """A Python expression typed by the user.

    For spectra it may use ``spectrum`` and ``energy`` (both ``(E,)``), ``band(low, high)`` (counts), ``ratio``,
    ``peak(low, high)`` (largest channel), ``position(low, high)`` (eV) and ``edge(fit_low, fit_high, low, high)``; for
    patterns ``pattern``, ``y``, ``x`` (mrad), ``com_y``, ``com_x`` and ``detector(inner, outer)``; for both the
    functions of NumPy listed in the manual, such as ``sqrt`` or ``where``.

    Only arithmetic, comparisons, indexing and these functions are let through: no attributes, no names with
    underscores, no strings, so that a shared settings file cannot run code.

    Raises
    ------
    StemAeError
        If the text holds anything else.
    """

    text: str

    def __post_init__(self) -> None:
        _compiled(self.text)

    def __call__(self, data: FloatArray, calibration: FloatArray | Reciprocal) -> FloatArray:
        """Return numbers ``(...)``."""
        axes = 2 if isinstance(calibration, Reciprocal) else 1
        flat = data.reshape(-1, *data.shape[data.ndim - axes :])
        flat = flat.view()
        flat.flags.writeable = False  # other properties are made of the same numbers
        if not isinstance(calibration, Reciprocal):
            calibration = np.asarray(calibration, dtype=float).view()
            calibration.flags.writeable = False
        values = [self._one(item, calibration) for item in flat]
        return np.array(values).reshape(data.shape[: data.ndim - axes])

    def _one(self, item: FloatArray, calibration: FloatArray | Reciprocal) -> float:
        names = _pattern_names(item, calibration) if isinstance(calibration, Reciprocal) else _spectrum_names(
            item, np.asarray(calibration, dtype=float))
        try:
            with np.errstate(all="ignore"):
                value = np.asarray(eval(_compiled(self.text), {"__builtins__": {}}, {**_FUNCTIONS, **names}), float)
        except StemAeError:
            raise
        except Exception as error:
            raise StemAeError(f"The expression {self.text!r} cannot be evaluated: {error}.") from error
        if value.size != 1:
            raise StemAeError(f"The expression {self.text!r} gives {value.shape} numbers: reduce it to one.")
        return float(value.reshape(()))


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> Any:
    if len(text) > _LONGEST:
        raise StemAeError(f"The expression is longer than {_LONGEST} characters.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise StemAeError(f"The expression {text!r} is not valid Python ({error}).") from error
    if _depth(tree) > _DEEPEST:
        raise StemAeError(f"The expression {text[:40]!r}… is nested more than {_DEEPEST} levels deep: make it simpler.")
    if sum(isinstance(node, ast.Constant) and node.value is None for node in ast.walk(tree)) > _NEW_AXES:
        raise StemAeError(f"The expression {text!r} holds None more than once, which is not allowed.")
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise StemAeError(f"The expression {text!r} uses {type(node).__name__}, which is not allowed.")
        if isinstance(node, ast.Name) and "_" in node.id.removeprefix("com_"):
            raise StemAeError(f"The expression {text!r} uses the name {node.id!r}, which is not allowed.")
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float | None):
            raise StemAeError(f"The expression {text!r} holds {node.value!r}: only numbers are allowed.")
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.keywords):
            raise StemAeError(f"The expression {text!r} calls something else than a function by its name.")
    return compile(ast.fix_missing_locations(_Floats().visit(tree)), "<expression>", "eval")


def _depth(tree: ast.AST) -> int:
    """Return how deeply nodes are nested."""
    depth, level = 0, [tree]
    while level := [child for node in level for child in ast.iter_child_nodes(node)]:
        depth += 1
    return depth


class _Floats(ast.NodeTransformer):
    """Turn whole numbers into floats, which overflow where ``((9**99)**99)**99`` would compute for ever.

    Inside brackets they stay, for they are indices there; powers are not let in instead.
    """

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(float(node.value)) if isinstance(node.value, int) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.Subscript:
        if any(isinstance(inner, ast.Pow) for inner in ast.walk(node.slice)):
            raise StemAeError("An index in the expression holds a power, which is not allowed.")
        node.value = self.visit(node.value)
        return node


def _spectrum_names(spectrum: FloatArray, energy: FloatArray) -> dict[str, Any]:
    return {
        "spectrum": spectrum,
        "energy": energy,
        "band": lambda low, high: BandIntegral((low, high))(spectrum, energy),
        "ratio": lambda a, b, c, d: PeakRatio((a, b), (c, d))(spectrum, energy),
        "peak": lambda low, high: PeakMaximum((low, high))(spectrum, energy),
        "position": lambda low, high: PeakPosition((low, high))(spectrum, energy),
        "edge": lambda a, b, low, high: EdgeArea((a, b), (low, high))(spectrum, energy),
    }


def _pattern_names(pattern: FloatArray, calibration: Reciprocal) -> dict[str, Any]:
    y, x = calibration.axes(pattern.shape)
    com_y, com_x = centre_of_mass(pattern, calibration)
    return {
        "pattern": pattern, "y": y, "x": x, "com_y": com_y, "com_x": com_x,
        "detector": lambda inner, outer: VirtualDetector(inner, outer)(pattern, calibration),
    }


# --- diffraction patterns -------------------------------------------------------------------------------------------


def centre_of_mass(patterns: FloatArray, calibration: Reciprocal) -> tuple[FloatArray, FloatArray]:
    """Return the mean deflection (y, x), each ``(...)``, in mrad; NaN for an empty pattern."""
    y, x = calibration.axes(patterns.shape)
    total = patterns.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (patterns * y).sum(axis=(-2, -1)) / total, (patterns * x).sum(axis=(-2, -1)) / total


@dataclasses.dataclass(frozen=True)
class CentreOfMass:
    """Mean deflection of the beam: its modulus or a component in mrad, or its direction in degrees.

    The direction counts from +x towards +y (down on the screen), -180 to 180; a surrogate predicts ``x`` and ``y``
    better, which do not jump.
    """

    quantity: Literal["magnitude", "angle", "x", "y"] = "magnitude"

    def __call__(self, patterns: FloatArray, calibration: Reciprocal) -> FloatArray:
        """Return mrad or degrees, ``(...)``."""
        y, x = centre_of_mass(patterns, calibration)
        if self.quantity == "magnitude":
            return np.hypot(y, x)
        if self.quantity == "angle":
            return np.degrees(np.arctan2(y, x))
        if self.quantity not in ("x", "y"):
            raise StemAeError(f"There is no centre-of-mass quantity {self.quantity!r}: magnitude, angle, x or y.")
        return x if self.quantity == "x" else y


@dataclasses.dataclass(frozen=True)
class VirtualDetector:
    """Part of the electrons that fall on a ring, from ``inner`` to below ``outer`` mrad; 0 to ``outer`` is a disk."""

    inner: float
    outer: float

    def __call__(self, patterns: FloatArray, calibration: Reciprocal) -> FloatArray:
        """Return the fraction ``(...)``, 0 to 1; NaN for an empty pattern."""
        if not 0 <= self.inner < self.outer:
            raise StemAeError(f"A detector from {self.inner} to {self.outer} mrad is empty: inner angle first.")
        radius = np.hypot(*calibration.axes(patterns.shape))
        mask = (radius >= self.inner) & (radius < self.outer)
        if not mask.any():
            raise StemAeError(f"A detector from {self.inner} to {self.outer} mrad lies outside the camera.")
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction: FloatArray = patterns[..., mask].sum(axis=-1) / patterns.sum(axis=(-2, -1))
        return fraction


@dataclasses.dataclass(frozen=True)
class DiskStrain:
    """Strain of the lattice from where diffraction disks lie, relative to where they lie in unstrained material.

    Each disk is found by its centre of mass, followed from its unstrained place; the linear map of unstrained to
    measured places, origin free, is found by least squares; the lattice deforms with its inverse transpose.

    Parameters
    ----------
    disks : tuple of (y, x)
        Places of at least two disks that do not lie on one line through the origin, unstrained, in mrad.
    radius : float
        Of a disk, in mrad.
    component : str
        "xx", "yy", "xy" or "dilatation" (xx + yy), without unit; "rotation" in degrees, from +x towards +y.
    """

    disks: tuple[tuple[float, float], ...]
    radius: float
    component: Literal["xx", "yy", "xy", "dilatation", "rotation"] = "dilatation"

    def __post_init__(self) -> None:
        checks.positive(self.radius, "The disks' radius", unit="mrad")
        checks.places(self.disks, "The disks")

    def __call__(self, patterns: FloatArray, calibration: Reciprocal) -> FloatArray:
        """Return the component ``(...)``."""
        flat = patterns.reshape(-1, *patterns.shape[-2:])
        values = [self._component(self._gradient(pattern, calibration)) for pattern in flat]
        return np.array(values).reshape(patterns.shape[:-2])

    def _gradient(self, pattern: FloatArray, calibration: Reciprocal) -> FloatArray:
        """Return the deformation gradient (2, 2) of the lattice, axes x then y."""
        reference = np.array(self.disks, dtype=float).reshape(-1, 2)[:, ::-1]
        design = np.column_stack([reference, np.ones(len(reference))])
        if np.linalg.matrix_rank(reference) < 2 or len(reference) < 3:
            raise StemAeError("Strain needs at least three disks that do not lie on one line, such as 0, g1 and g2.")
        found = np.array([self._follow(pattern, calibration, place) for place in reference])
        linear = np.linalg.lstsq(design, found, rcond=None)[0][:2].T
        gradient: FloatArray = np.linalg.inv(linear).T
        return gradient

    def _follow(self, pattern: FloatArray, calibration: Reciprocal, place: FloatArray) -> FloatArray:
        y, x = calibration.axes(pattern.shape)
        for _ in range(20):
            # half a radius of margin lets the disk be off its place; a soft rim keeps the steps smooth
            inside = np.clip(1.5 - np.hypot(y - place[1], x - place[0]) / self.radius, 0.0, 0.25) * pattern
            total = inside.sum()
            if not total > 0:
                return np.full(2, np.nan)
            moved = np.array([(inside * x).sum(), (inside * y).sum()]) / total
            done = np.abs(moved - place).max() < 1e-4 * self.radius
            place = moved
            if done:
                break
        return place

    def _component(self, f: FloatArray) -> float:
        if self.component == "rotation":
            return float(np.degrees(np.arctan2(f[1, 0] - f[0, 1], f[0, 0] + f[1, 1])))
        strain = (f + f.T) / 2 - np.eye(2)
        parts = {"xx": strain[0, 0], "yy": strain[1, 1], "xy": strain[0, 1], "dilatation": np.trace(strain)}
        if self.component not in parts:
            raise StemAeError(f"There is no strain component {self.component!r}: choose {', '.join(parts)}, rotation.")
        return float(parts[self.component])


# --- together -------------------------------------------------------------------------------------------------------

SpectrumScalarizer = BandIntegral | PeakRatio | PeakMaximum | PeakPosition | EdgeArea | Expression
PatternScalarizer = CentreOfMass | VirtualDetector | DiskStrain | Expression
Scalarizer = SpectrumScalarizer | PatternScalarizer

SPECTRUM_SCALARIZERS: dict[str, type[SpectrumScalarizer]] = {
    "band integral": BandIntegral, "peak ratio": PeakRatio, "peak maximum": PeakMaximum,
    "peak position": PeakPosition, "edge area": EdgeArea, "expression": Expression,
}
PATTERN_SCALARIZERS: dict[str, type[PatternScalarizer]] = {
    "centre of mass": CentreOfMass, "virtual detector": VirtualDetector, "disk strain": DiskStrain,
    "expression": Expression,
}


def scalarize(
    data: ArrayLike, calibration: ArrayLike | Reciprocal, scalarizers: Mapping[str, Callable[..., FloatArray]]
) -> dict[str, FloatArray]:
    """Return the numbers ``(...)`` of several scalarizers, by their names.

    Parameters
    ----------
    data : (..., E) or (..., H, W) array
        Spectra, or patterns.
    calibration : (E,) array or Reciprocal
        Energies of the channels in eV, or the camera's calibration.
    scalarizers : mapping of str to scalarizer
    """
    array = np.asarray(data, dtype=float)
    given = calibration if isinstance(calibration, Reciprocal) else np.asarray(calibration, dtype=float)
    if not isinstance(given, Reciprocal) and (array.ndim < 1 or given.shape != array.shape[-1:]):
        raise StemAeError(f"Spectra of {array.shape[-1:]} channels came with {given.shape} energies.")
    return {name: np.asarray(scalarizer(array, given)) for name, scalarizer in scalarizers.items()}
