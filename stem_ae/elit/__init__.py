"""Ensemble learning, iterative training: atoms and classes with honest uncertainties.

Importing this package does not import torch; that happens when a model is loaded.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from stem_ae.elit.prediction import Prediction

if TYPE_CHECKING:
    from stem_ae.elit.ensemble import Ensemble
    from stem_ae.torch_device import DeviceName

__all__ = ["Ensemble", "Prediction", "adapt", "available", "load"]


def available() -> list[str]:
    """Return the names of the models that :func:`load` knows, bundled ones first."""
    from stem_ae.store import models

    return models.names()


def load(name: str | pathlib.Path, device: DeviceName = "auto") -> Ensemble:
    """Return an ensemble by its name in the model store, or from a file.

    It computes on a GPU if PyTorch can use one, unless ``device`` is ``"cpu"``.

    Raises
    ------
    StemAeError
        If there is no such model, the file holds something else, or PyTorch cannot compute on the device.
    """
    from stem_ae.elit.ensemble import Ensemble
    from stem_ae.store import models

    return Ensemble.read(models.find(name)).replace(device=device)


def adapt(
    ensemble: Ensemble,
    image: ArrayLike | Sequence[ArrayLike],
    sampling: float | tuple[float, float],
    **options: Any,
) -> Ensemble:
    """Return a new ensemble that has learnt the conditions of one or several frames.

    See :func:`stem_ae.elit.adaptation.adapt` for the options (``progress``, ``effort``, ``seed``).
    """
    from stem_ae.elit import adaptation

    return adaptation.adapt(ensemble, image, sampling, **options)


def __getattr__(name: str) -> Any:
    if name == "Ensemble":
        from stem_ae.elit.ensemble import Ensemble

        return Ensemble
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
