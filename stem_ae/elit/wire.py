"""Predictions as messages between processes; see :mod:`stem_ae.processes`."""

from __future__ import annotations

import dataclasses
from typing import Any

from stem_ae.atoms import Atoms2D
from stem_ae.elit.prediction import Prediction
from stem_ae.elit.scale import Scale
from stem_ae.processes import Arrays

_NUMBERS = ("working_sampling", "conditions", "width")
_MAPS = ("working_probability", "working_uncertainty", "uncertainty", "foreign")


def packed(prediction: Prediction) -> tuple[dict[str, Any], Arrays]:
    """Return a prediction as what a message can hold."""
    atoms = {field.name: getattr(prediction.atoms, field.name) for field in dataclasses.fields(prediction.atoms)}
    values = {name: atoms.pop(name) for name in ("species", "shape", "sampling")}
    values |= {name: getattr(prediction, name) for name in _NUMBERS}
    arrays: Arrays = {f"atoms.{name}": array for name, array in atoms.items()}
    arrays |= {name: getattr(prediction, name) for name in _MAPS}
    if prediction.judged is not None:
        arrays["judged"] = prediction.judged
    if prediction.scale is not None:
        arrays |= {"scale.widths": prediction.scale.widths, "scale.probability": prediction.scale.probability}
    return values, arrays


def unpacked(values: dict[str, Any], arrays: Arrays) -> Prediction:
    """Return the prediction that a message holds."""
    atoms: dict[str, Any] = {n.removeprefix("atoms."): a for n, a in arrays.items() if n.startswith("atoms.")}
    atoms |= {name: tuple(values[name]) for name in ("species", "shape")}
    atoms["sampling"] = values["sampling"] and tuple(values["sampling"])
    scale = Scale(arrays["scale.widths"], arrays["scale.probability"]) if "scale.widths" in arrays else None
    prediction = Prediction(
        arrays["working_probability"],
        arrays["working_uncertainty"],
        values["working_sampling"],
        Atoms2D(**atoms),
        values["conditions"],
        arrays["foreign"],
        values["width"],
        scale,
        arrays.get("judged"),
    )
    vars(prediction)["uncertainty"] = arrays["uncertainty"]  # a cached property, worked out over there already
    return prediction
