"""How far a frame is from what the ensemble knows.

Known is what the ensemble was trained on *and reads correctly*: simulated frames of its conditions, in which it finds
the true columns. Three things are compared with those frames, each by its Mahalanobis distance:

* the deepest features of each network, averaged over tiles as large as a training patch (Lee et al., NeurIPS 2018):
  members that agree on nonsense still see features that they have never seen;
* the radial power spectrum of the frame on the networks' grid, and how skew its grey values are: other defocus, other
  sampling, another lattice;
* the reading: how well the found atoms explain the frame, how sure the members are, how many atoms there are and how
  bright, and which classes stand beside each other: noise, inverted contrast, contamination.

Two more are said of a frame:

* whether it is read like simulated frames that were read wrongly (Hendrycks et al., ICLR 2019): what is known varies so
  much, with dose, holes and hydrocarbon, that a distance alone lets much pass that lies just beyond;
* whether the brightness of an atom fits its class, see :mod:`stem_ae.elit.foreign`: unknown elements.

The novelty is the largest of the five, in such units that one known frame in fifty exceeds 1 by its conditions (the
first four), and one in fifty by an atom.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage
from torch import Tensor
from torch.nn import functional

from stem_ae.atoms import Atoms2D
from stem_ae.elit.foreign import Brightness, Seen, heights, levelled, surroundings
from stem_ae.elit.network import MULTIPLE
from stem_ae.errors import StemAeError

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_TILE = 96 // MULTIPLE  # cells of the deepest level per side
_FAMILIAR = 0.98  # of the known frames have a novelty below 1 by their conditions, and by their atoms
_EACH = 0.99  # of them are within the unit of each of the four conditions, before all four are taken together
_FEWEST_MISREAD = 12  # frames: from fewer nothing is learnt
_FOLDS = 5  # parts of the known frames
_RING = 0.15  # 1/Å
_RINGS = range(1, 16)  # slower than 6.7 Å there are gradients and hydrocarbon
_BLUR = 0.35  # Å: grey values are looked at on the scale of an atom
_NEAREST = 3
_ODD = 0.7  # foreign atoms are seldom alone: others of their kind are a little less odd
_GENERAL = 5  # numbers of a reading before those of brightness


@dataclasses.dataclass(frozen=True, eq=False)
class Signs:
    """What a frame shows, in numbers.

    Attributes
    ----------
    deep : (M, T, F) array
        Deep features of each member, for each tile.
    spectrum : (R,) array
        Logarithm of the power in each ring, and the skewness.
    reading : (Q,) array
        What the ensemble makes of the frame.
    seen : Seen
        Its atoms.
    """

    deep: FloatArray
    spectrum: FloatArray
    reading: FloatArray
    seen: Seen


@dataclasses.dataclass(frozen=True, eq=False)
class Cloud:
    """Where known frames lie in a space of features.

    Attributes
    ----------
    centres : (K, S) array
        One for each set of conditions; the nearest counts.
    whitening : (S, S) array
        ``distance = min |whitening @ (features - centre)| / unit``.
    unit : float
        The distance that few known frames exceed.
    """

    centres: FloatArray
    whitening: FloatArray
    unit: float

    @classmethod
    def learn(cls, features: FloatArray) -> tuple[Cloud, FloatArray]:
        """Learn from the features ``(N, S)`` of known frames; also return how far each is from the others, ``(N,)``."""
        held_out = np.empty(len(features))
        for part in _parts(len(features)):
            others = features[~part]
            held_out[part] = _distances(features[part], others.mean(0)[None], _whitening(others - others.mean(0)))
        centre = features.mean(0)
        unit = float(np.quantile(held_out, _EACH))
        return cls(centre[None], _whitening(features - centre), unit), held_out / unit

    def distance(self, features: FloatArray) -> float:
        """Return the distance of one frame, 1 being that of a rare known one."""
        return float(_distances(features[None], self.centres, self.whitening)[0]) / self.unit

    def with_centre(self, features: FloatArray) -> Cloud:
        """Return the cloud with one more centre, the mean of a few frames ``(N, S)`` of new conditions."""
        return dataclasses.replace(self, centres=np.concatenate([self.centres, features.mean(0)[None]]))


@dataclasses.dataclass(frozen=True, eq=False)
class Doubt:
    """How frames that are read wrongly differ from those that are read correctly.

    Attributes
    ----------
    weights : (S,) array
    offset : float
        ``features @ weights + offset`` is the logarithm of the odds that a frame is read wrongly.
    usual, limit : float
        What half of the known frames exceed, and few.
    """

    weights: FloatArray
    offset: float
    usual: float
    limit: float

    @classmethod
    def learn(cls, right: FloatArray, wrong: FloatArray) -> tuple[Doubt, FloatArray]:
        """Learn from the features of frames ``(N, S)`` and ``(K, S)``.

        Also return the distance of each of the N by what was learnt from others, ``(N,)``.
        """
        from sklearn.linear_model import LogisticRegression

        features, is_wrong = np.concatenate([right, wrong]), np.repeat([0, 1], [len(right), len(wrong)])
        mean, scale = features.mean(0), np.maximum(features.std(0), 1e-3)

        def fitted(chosen: NDArray[np.bool_]) -> tuple[FloatArray, float]:
            model = LogisticRegression(max_iter=3000)
            model.fit((features[chosen] - mean) / scale, is_wrong[chosen])
            weights = model.coef_[0] / scale
            return weights, float(model.intercept_[0] - weights @ mean)

        odds = np.empty(len(features))
        for part in _parts(len(features)):
            weights, offset = fitted(~part)
            odds[part] = features[part] @ weights + offset
        held_out = odds[: len(right)]
        usual, limit = np.quantile(held_out, [0.5, _EACH])
        doubt = cls(*fitted(np.ones(len(features), bool)), float(usual), float(limit))
        return doubt, doubt._of(held_out)

    def distance(self, features: FloatArray) -> float:
        """Return 0.5 for a usual frame, 1 for a rare known one."""
        return float(self._of(features @ self.weights + self.offset))

    def _of(self, odds: ArrayLike) -> FloatArray:
        width = max(self.limit - self.usual, 1e-6)
        return np.maximum(1 + (np.asarray(odds, dtype=float) - self.limit) / (2 * width), 0.0)

    def within(self, unit: float) -> Doubt:
        """Return it with that distance as the new unit."""
        return dataclasses.replace(self, limit=self.limit + 2 * (unit - 1) * (self.limit - self.usual))

    def allowing(self, features: FloatArray) -> Doubt:
        """Return it with a limit that a few frames ``(N, S)`` do not exceed."""
        return dataclasses.replace(self, limit=max(self.limit, float((features @ self.weights + self.offset).max())))


@dataclasses.dataclass(frozen=True, eq=False)
class Familiar:
    """What known frames look like to an ensemble.

    Attributes
    ----------
    mean : (M, F) array
        Of the tiles' deep features, for each member.
    whitening : (M, F, F) array
        ``distance = |whitening @ (features - mean)| / unit``.
    unit : float
        The distance that few known frames exceed.
    spectrum, reading : Cloud, optional
    brightness : Brightness, optional
        Of the classes. All three are missing in models of earlier versions.
    doubt : Doubt, optional
        Of the reading; missing where no frames were read wrongly, and in models of earlier versions.
    """

    mean: FloatArray
    whitening: FloatArray
    unit: float
    spectrum: Cloud | None = None
    reading: Cloud | None = None
    brightness: Brightness | None = None
    doubt: Doubt | None = None

    @classmethod
    def learn(cls, known: Sequence[Signs], misread: Sequence[Signs] = ()) -> Familiar:
        """Learn from known frames, and from such as the ensemble reads wrongly."""
        spectra, readings = (np.array(rows) for rows in _rows(known))
        mean, whitening, unit, deep = _deep(known)
        spectrum, apart = Cloud.learn(spectra)
        reading, elsewhere = Cloud.learn(readings)
        parts = [deep, apart, elsewhere]
        doubt = None
        if len(misread) >= _FEWEST_MISREAD:
            doubt, odd = Doubt.learn(readings, np.array(_rows(misread)[1]))
            parts.append(odd)
        together = float(np.quantile(np.max(parts, axis=0), _FAMILIAR))
        return cls(
            mean,
            whitening,
            unit * together,
            dataclasses.replace(spectrum, unit=spectrum.unit * together),
            dataclasses.replace(reading, unit=reading.unit * together),
            Brightness.learn([frame.seen for frame in known], _FAMILIAR),
            doubt and doubt.within(together),
        )

    def learn_also(self, known: Sequence[Signs], today: Sequence[Signs]) -> Familiar:
        """Return what is familiar after the networks have changed: what was known, and a few frames of new conditions.

        The deep features are learnt anew; the others keep their spread, of which a few frames say little.
        """
        anew = Familiar(*_deep([*known, *today])[:3], self.spectrum, self.reading, self.brightness, self.doubt)
        if self.spectrum is None or self.reading is None or not today:
            return anew
        spectra, readings = (np.array(rows) for rows in _rows(today))
        return dataclasses.replace(
            anew,
            spectrum=self.spectrum.with_centre(spectra),
            reading=self.reading.with_centre(readings),
            doubt=self.doubt and self.doubt.allowing(readings),
        )

    def with_frames(self, frames: Sequence[Signs]) -> Familiar:
        """Return what is familiar if some frames are, too, whatever they look like: those that were adapted to."""
        if self.spectrum is None or self.reading is None:
            return self
        spectra, readings = (np.array(rows) for rows in _rows(frames))
        farthest = max(float(_tile_distances(frame.deep, self.mean, self.whitening).mean()) for frame in frames)
        return dataclasses.replace(
            self,
            unit=max(self.unit, farthest),
            spectrum=self.spectrum.with_centre(spectra),
            reading=self.reading.with_centre(readings),
            doubt=self.doubt and self.doubt.allowing(readings),
        )

    def novelty(self, signs: Signs) -> tuple[float, FloatArray]:
        """Return how far a frame's conditions, and each of its atoms ``(N,)``, are from what is familiar.

        Up to 1 is known. Where atoms are foreign, their brightness says nothing about the conditions.
        """
        foreign = np.zeros(len(signs.seen.atoms))
        if self.brightness is not None:
            foreign = self.brightness.novelty(signs.seen)
        reading = _without_foreign(signs, foreign)
        distances = [float(_tile_distances(signs.deep, self.mean, self.whitening).mean()) / self.unit]
        if self.spectrum is not None:
            distances.append(self.spectrum.distance(signs.spectrum))
        if self.reading is not None:
            distances.append(self.reading.distance(reading))
        if self.doubt is not None:
            distances.append(self.doubt.distance(reading))
        return max(distances), foreign

    def check(self, members: int, features: int, classes: int) -> None:
        """Raise StemAeError if the arrays do not fit so many networks, deep features and classes.

        Raises
        ------
        StemAeError
            If an array has another shape, or a unit is not positive.
        """
        expected: dict[str, tuple[FloatArray, tuple[int, ...]]] = {
            "mean": (self.mean, (members, features)), "whitening": (self.whitening, (members, features, features)),
        }  # fmt: skip
        units = [self.unit]
        pairs = classes * (classes + 1) // 2
        for name, part, size in (
            ("spectrum", self.spectrum, len(_RINGS) + 1), ("reading", self.reading, _GENERAL + 1 + 3 * classes + pairs),
        ):  # fmt: skip
            if part is not None:
                expected[f"{name}'s centres"] = (part.centres, (max(1, len(part.centres)), size))
                expected[f"{name}'s whitening"] = (part.whitening, (size, size))
                units.append(part.unit)
        if self.brightness is not None:
            expected["usual brightness"] = (self.brightness.usual, (classes,))
            units.append(self.brightness.unit)
        if self.doubt is not None:
            expected["doubt's weights"] = (self.doubt.weights, (_GENERAL + 1 + 3 * classes + pairs,))
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise StemAeError(f"what is familiar to it does not fit: its {name} has the shape {array.shape}.")
        if not all(unit > 0 for unit in units):
            raise StemAeError("what is familiar has a unit that is not above zero.")

    def of_members(self, members: Sequence[int]) -> Familiar:
        """Return what is known of some of the members."""
        chosen = list(members)
        return dataclasses.replace(self, mean=self.mean[chosen], whitening=self.whitening[chosen])

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers to keep with the weights."""
        arrays: dict[str, FloatArray] = {
            "mean": self.mean, "whitening": self.whitening, "unit": np.array([self.unit]),
        }  # fmt: skip
        parts = {
            "spectrum": self.spectrum, "reading": self.reading, "brightness": self.brightness, "doubt": self.doubt,
        }  # fmt: skip
        for name, part in parts.items():
            if part is not None:
                arrays |= {f"{name}.{field}": np.atleast_1d(v) for field, v in dataclasses.asdict(part).items()}
        return {f"familiar.{k}": torch.from_numpy(np.ascontiguousarray(v, np.float32)) for k, v in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Familiar | None:
        """Return what :meth:`tensors` gave, or None if it is not there."""
        prefix = "familiar."
        kept = {k[len(prefix) :]: t.double().numpy() for k, t in tensors.items() if k.startswith(prefix)}
        if not kept:
            return None
        try:
            return cls._of(kept)
        except (KeyError, IndexError) as error:
            raise StemAeError(f"what is familiar to it is not complete ({error}).") from error

    @classmethod
    def _of(cls, kept: dict[str, FloatArray]) -> Familiar:
        deep = kept["mean"], kept["whitening"], float(kept["unit"].flat[0])
        if "brightness.unit" not in kept:  # what earlier versions kept of the rest was measured in another way
            return cls(*deep)
        spectrum, reading = (
            Cloud(kept[f"{name}.centres"], kept[f"{name}.whitening"], float(kept[f"{name}.unit"].flat[0]))
            for name in ("spectrum", "reading")
        )
        brightness = Brightness(kept["brightness.usual"], float(kept["brightness.unit"].flat[0]))
        doubt = None
        if "doubt.weights" in kept:
            odds = (float(kept[f"doubt.{name}"].flat[0]) for name in ("offset", "usual", "limit"))
            doubt = Doubt(kept["doubt.weights"], *odds)
        return cls(*deep, spectrum, reading, brightness, doubt)


# --- what a frame shows -----------------------------------------------------------------------------------------------


def signs(
    frame: Image, working: float, deep: FloatArray, probability: Image, spread: Image, atoms: Atoms2D
) -> Signs:
    """Return what a frame shows.

    Parameters
    ----------
    frame : (h, w) array
        On the working grid, normalised.
    working : float
        Å per pixel of that grid.
    deep : (M, T, F) array
        From :func:`tile_features`.
    probability, spread : (C, h, w) and (h, w) arrays
        Mean and standard deviation over the members.
    atoms : Atoms2D
        The peaks of the probability.
    """
    blurred = ndimage.gaussian_filter(frame, _BLUR / working, truncate=2.5)
    seen = Seen(atoms, heights(blurred, working, atoms.positions), surroundings(atoms.positions))
    spectrum = np.append(_spectrum(frame, working), _skewness(blurred))
    return Signs(deep, spectrum, _reading(frame, working, probability, spread, seen), seen)


def tile_features(features: Tensor) -> FloatArray:
    """Return the features ``(M, T, F)`` of a frame's tiles from those of each member, ``(M, F, h, w)``."""
    size = (min(_TILE, features.shape[2]), min(_TILE, features.shape[3]))
    pooled = functional.avg_pool2d(features, size, stride=(max(1, size[0] // 2), max(1, size[1] // 2)))
    result: FloatArray = pooled.flatten(2).transpose(1, 2).double().cpu().numpy()
    return result


def _spectrum(frame: Image, working: float) -> FloatArray:
    rings, count, window = _rings(frame.shape[0], frame.shape[1], working)
    power = np.abs(fft.rfft2((frame - frame.mean()) * window)) ** 2
    per_ring = np.bincount(rings, power.ravel(), len(count)) / count
    chosen = slice(_RINGS.start, _RINGS.stop)
    result: FloatArray = np.log(per_ring[chosen] / (window**2).sum() + 1e-6)
    return result


def _skewness(image: Image) -> float:
    deviation = image - image.mean()
    return float((deviation**3).mean()) / max(float(deviation.std()), 1e-4) ** 3


@functools.lru_cache(maxsize=16)
def _rings(h: int, w: int, working: float) -> tuple[NDArray[np.int64], FloatArray, Image]:
    """Return the ring of each frequency (flat), how many are in each ring, and the window of the transform."""
    frequency = np.hypot(fft.fftfreq(h, working)[:, None], fft.rfftfreq(w, working)[None, :])
    rings = np.minimum((frequency / _RING).astype(np.int64), _RINGS.stop).ravel()
    count = np.maximum(np.bincount(rings, minlength=_RINGS.stop + 1), 1).astype(float)
    return rings, count, np.outer(np.hanning(h), np.hanning(w)).astype(np.float32)


def _reading(frame: Image, working: float, probability: Image, spread: Image, seen: Seen) -> FloatArray:
    atoms = seen.atoms
    atomness = probability.sum(0)
    centred = atomness - atomness.mean()
    explained = float((centred * frame).mean()) / max(float(centred.std() * frame.std()), 1e-9)
    area = frame.size * working**2
    classes, pairs = len(atoms.species), _pairs(len(atoms.species))
    general = [explained, float(atomness.mean()), np.log(float(spread.mean()) + 1e-4), len(atoms) / area]
    if len(atoms) <= _NEAREST:
        return np.array([*general, 0.0, *np.zeros(1 + 3 * classes + len(pairs))])
    column, row = np.rint(atoms.positions / working).astype(int).T
    row, column = np.clip(row, 0, frame.shape[0] - 1), np.clip(column, 0, frame.shape[1] - 1)
    sure = float(atomness[row, column].mean())
    beside = atoms.labels[seen.near[:, :_NEAREST]]
    first, second = np.minimum(atoms.labels[:, None], beside), np.maximum(atoms.labels[:, None], beside)
    share = np.bincount((first * classes + second).ravel(), minlength=classes**2) / beside.size
    return np.array([*general, sure, *_brightness(seen, np.ones(len(atoms), bool)), *np.sqrt(share[pairs])])


def _without_foreign(signs: Signs, foreign: FloatArray) -> FloatArray:
    """Return the reading without the brightness of foreign atoms, of those that may be, and of those beside them."""
    if not (foreign > 1).any():
        return signs.reading
    odd = foreign > _ODD
    odd[signs.seen.near[odd, :_NEAREST]] = True
    brightness = _brightness(signs.seen, ~odd)
    reading = signs.reading.copy()
    reading[_GENERAL : _GENERAL + len(brightness)] = brightness
    return reading


@functools.lru_cache(maxsize=8)
def _pairs(classes: int) -> list[int]:
    """Return the numbers of the pairs of classes, the smaller first."""
    return [a * classes + b for a in range(classes) for b in range(a, classes)]


def _brightness(seen: Seen, counted: NDArray[np.bool_]) -> list[float]:
    """Return how the brightness differs across the frame, and what is left of it for the counted atoms of each class.

    That is how bright it is in all atoms' median, and how far its brightest and dimmest are off. Logarithms; a class of
    few atoms is taken to be as usual, whatever they look like.
    """
    brightness, gain = levelled(seen)
    dim, bright = np.quantile(gain, [0.05, 0.95])
    result = [float(bright - dim)]
    for label in range(len(seen.atoms.species)):
        those = brightness[counted & (seen.atoms.labels == label)]
        if not len(those):
            result += [0.0, 0.0, 0.0]
            continue
        low, middle, high = np.quantile(those, [0.02, 0.5, 0.98])
        trust = len(those) / (len(those) + 4)
        result += [trust * middle, trust * (high - middle), trust * (middle - low)]
    return result


# --- distances --------------------------------------------------------------------------------------------------------


def _rows(frames: Sequence[Signs]) -> tuple[list[FloatArray], list[FloatArray]]:
    return [frame.spectrum for frame in frames], [frame.reading for frame in frames]


def _parts(count: int) -> list[NDArray[np.bool_]]:
    """Return which frames belong to each part: the distances of each are judged by the others."""
    return [np.arange(count) % _FOLDS == fold for fold in range(_FOLDS)]


def _deep(known: Sequence[Signs]) -> tuple[FloatArray, FloatArray, float, FloatArray]:
    """Return mean, whitening and unit of the deep features, and how far each frame is from the others, ``(N,)``."""
    held_out = np.empty(len(known))
    for part in _parts(len(known)):
        mean, whitening = _tiles([frame for frame, held in zip(known, part, strict=True) if not held])
        for k in np.flatnonzero(part).tolist():
            held_out[k] = _tile_distances(known[k].deep, mean, whitening).mean()
    unit = float(np.quantile(held_out, _EACH))
    return *_tiles(known), unit, held_out / unit


def _tiles(frames: Sequence[Signs]) -> tuple[FloatArray, FloatArray]:
    """Return mean and whitening of the deep features of all tiles, for each member."""
    tiles = np.concatenate([frame.deep for frame in frames], axis=1)
    mean = tiles.mean(1)
    return mean, np.stack([_whitening(member - m, 1e-3) for member, m in zip(tiles, mean, strict=True)])


def _whitening(centred: FloatArray, least: float = 0.02) -> FloatArray:
    """Return the matrix that gives the rows ``(N, S)`` unit covariance.

    Directions along which known frames hardly differ must not decide everything: none counts for less than ``least`` of
    the mean variance.
    """
    scale = np.maximum(centred.std(0), 1e-3)
    covariance = np.cov(centred / scale, rowvar=False, bias=False)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, least * values.mean())
    result: FloatArray = (vectors / np.sqrt(values)).T / scale
    return result


def _distances(features: FloatArray, centres: FloatArray, whitening: FloatArray) -> FloatArray:
    """Return the distance of each row ``(N, S)`` from the nearest centre, per square root of the dimensions."""
    white = np.einsum("gs,nks->nkg", whitening, features[:, None] - centres)
    result: FloatArray = np.sqrt((white**2).mean(-1)).min(1)
    return result


def _tile_distances(features: FloatArray, mean: FloatArray, whitening: FloatArray) -> FloatArray:
    """Return each tile's distance, the mean over the members, ``(T,)``."""
    white = np.einsum("mgf,mtf->mtg", whitening, features - mean[:, None])
    result: FloatArray = np.sqrt((white**2).mean(-1)).mean(0)
    return result
