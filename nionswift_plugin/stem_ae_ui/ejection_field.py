"""Which field of the specimen a frame shows, judged by scan, stage and beam shift."""

from __future__ import annotations

import dataclasses
import typing

from nion.utils import Registry

from . import keeping

_METRE = 1e10  # Å
_STILL = {"stage_position_m.x": 5.0, "stage_position_m.y": 5.0, "CSH.x": 0.5, "CSH.y": 0.5}
"""Å: after smaller changes of the controls the field is the same; the read-out of a stage fluctuates."""


def control(name: str) -> float | None:
    """Return a control of Swift's instrument, if it knows it."""
    stem: typing.Any = Registry.get_component("stem_controller")
    known, value = stem.TryGetVal(name) if stem else (False, None)
    return float(value) if known and value is not None else None


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """Where an image was taken.

    Two of them are equal if nothing has been moved on purpose; drift does not show.

    Parameters
    ----------
    image : str
        What stands for the data item.
    scan : tuple
        Centre, width and rotation, as the image states them.
    controls : dict
        Stage and beam shift in Å, as far as the instrument knows them.
    """

    image: str
    scan: tuple[typing.Any, ...]
    controls: dict[str, float]

    @classmethod
    def of(cls, snapshot: keeping.Snapshot) -> Field:
        """Return where a frame was taken, if that was just now."""
        origin = snapshot.origin
        image = origin.reference or (str(origin.data_item.uuid) if origin.data_item else "")
        scan = origin.metadata.get("scan", {})
        values = {name: control(name) for name in _STILL} if origin.reference else {}
        return cls(
            image, tuple(scan.get(name) for name in ("center_x_nm", "center_y_nm", "fov_nm", "rotation")),
            {name: _METRE * value for name, value in values.items() if value is not None},
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Field) or (self.image, self.scan) != (other.image, other.scan):
            return False
        if self.controls.keys() != other.controls.keys():
            return False
        return all(abs(value - other.controls[name]) <= _STILL[name] for name, value in self.controls.items())

    __hash__ = None  # type: ignore[assignment]
