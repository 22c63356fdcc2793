"""Descriptors that a trained ensemble has: what its networks make of the surroundings of a place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch.nn import functional

from stem_ae.atoms import as_sampling
from stem_ae.descriptors.patches import PrincipalComponents
from stem_ae.elit.ensemble import Ensemble
from stem_ae.elit.network import MULTIPLE

FloatArray = NDArray[np.float64]


def learnt_features(
    ensemble: Ensemble, image: ArrayLike, sampling: float | tuple[float, float], points: ArrayLike, n: int = 16
) -> FloatArray:
    """Return descriptors ``(k, n)`` of pixels ``points (k, 2)``, row and column: ``features`` for the explorer.

    The deepest layer of the ensemble's first network, which sees a few Å around a place and is not trained further, as
    its ``n`` strongest principal components among the points.

    Parameters
    ----------
    ensemble : Ensemble
        Of the material, such as ``elit.load("graphene")``.
    image : (H, W) array
    sampling : float or (float, float)
        Å per pixel, ``(y, x)`` if two.
    points : (k, 2) array
        Candidates.
    n : int
        How many components.
    """
    step = as_sampling(sampling)
    frame = ensemble.seen(image, step)
    pad = (0, -frame.shape[1] % MULTIPLE, 0, -frame.shape[0] % MULTIPLE)
    x = functional.pad(torch.from_numpy(np.ascontiguousarray(frame))[None, None], pad, mode="replicate")
    with torch.inference_mode():
        deep = ensemble.members[0].with_features(x)[1][0].double().numpy()
    fine = np.asarray(points, dtype=float).T * np.array(step)[:, None] / ensemble.sampling
    coarse = (fine - (MULTIPLE - 1) / 2) / MULTIPLE  # a deep pixel's middle lies between those it was made of
    seen = np.stack([ndimage.map_coordinates(layer, coarse, order=1, mode="nearest") for layer in deep], axis=1)
    return PrincipalComponents.fit([seen], n).transform(seen)
