"""How far a frame is from what the ensemble was trained on.

The deepest features of each network, averaged over tiles as large as a training patch, are compared with those of the
training images by their Mahalanobis distance (Lee et al., NeurIPS 2018): members that agree on nonsense still see
features that they have never seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stem_ae.elit.network import MULTIPLE

FloatArray = NDArray[np.float64]

_TILE = 96 // MULTIPLE  # cells of the deepest level per side
_FAMILIAR = 0.99  # of the training tiles have a novelty below 1


@dataclasses.dataclass(frozen=True, eq=False)
class Familiar:
    """Mean and spread of the features of familiar frames, for each member.

    Attributes
    ----------
    mean : (M, F) array
        Of the tiles' features.
    whitening : (M, F, F) array
        ``distance = |whitening @ (features - mean)| / unit``.
    unit : float
        The distance that is exceeded by one familiar tile in a hundred.
    """

    mean: FloatArray
    whitening: FloatArray
    unit: float

    @classmethod
    def learn(cls, features: FloatArray) -> Familiar:
        """Learn from the features ``(M, T, F)`` of T familiar tiles; half of them set the unit."""
        first, second = features[:, ::2], features[:, 1::2]
        mean = first.mean(1)
        whitening = np.stack([_whitening(member - m) for member, m in zip(first, mean, strict=True)])
        distance = _distance(second, mean, whitening)
        return cls(mean, whitening, float(np.quantile(distance, _FAMILIAR)))

    def novelty(self, features: FloatArray) -> float:
        """Return the mean novelty over the tiles ``(M, T, F)`` of a frame."""
        return float(_distance(features, self.mean, self.whitening).mean()) / self.unit

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers to keep with the weights."""
        arrays = {"mean": self.mean, "whitening": self.whitening, "unit": np.array([self.unit])}
        return {f"familiar.{k}": torch.from_numpy(np.ascontiguousarray(v, np.float32)) for k, v in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Familiar | None:
        """Return what :meth:`tensors` gave, or None if it is not there."""
        if "familiar.mean" not in tensors:
            return None
        mean, whitening, unit = (tensors[f"familiar.{k}"].double().numpy() for k in ("mean", "whitening", "unit"))
        return cls(mean, whitening, float(unit[0]))


def tile_features(features: Sequence[Tensor]) -> FloatArray:
    """Return the features ``(M, T, F)`` of a frame's tiles from each member's ``(1, F, h, w)``."""
    tiles = []
    for member in features:
        size = (min(_TILE, member.shape[2]), min(_TILE, member.shape[3]))
        pooled = functional.avg_pool2d(member, size, stride=(max(1, size[0] // 2), max(1, size[1] // 2)))
        tiles.append(pooled[0].flatten(1).T)
    result: FloatArray = torch.stack(tiles).double().numpy()
    return result


def _whitening(centred: FloatArray) -> FloatArray:
    covariance = centred.T @ centred / max(len(centred) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    # Directions that training hardly ever moved along must not decide everything.
    values = np.maximum(values, 1e-3 * values.mean())
    result: FloatArray = (vectors / np.sqrt(values)).T
    return result


def _distance(features: FloatArray, mean: FloatArray, whitening: FloatArray) -> FloatArray:
    """Return each tile's distance, the mean over the members, ``(T,)``."""
    white = np.einsum("mgf,mtf->mtg", whitening, features - mean[:, None])
    result: FloatArray = np.sqrt((white**2).mean(-1)).mean(0)
    return result
