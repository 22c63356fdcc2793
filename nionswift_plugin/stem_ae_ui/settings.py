"""What the Atoms panel remembers from one start of Swift to the next."""

from __future__ import annotations

import dataclasses
import json
import typing

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

KEY = "stem_ae/atoms_panel"

# Okabe and Ito's colours, which people with any colour vision can tell apart; the common class comes first and is calm
PALETTE = ("#56B4E9", "#F0A020", "#FF4D6D", "#2FD3A0", "#F0E442", "#C77DFF", "#FFFFFF")


class Store(typing.Protocol):
    """Where Swift keeps strings (its user interface object)."""

    def get_persistent_string(self, key: str, default_value: str | None = None) -> str: ...  # noqa: D102
    def set_persistent_string(self, key: str, value: str) -> None: ...  # noqa: D102


AnySettings = typing.TypeVar("AnySettings", bound="DataclassInstance")


def stored(
    settings: AnySettings, store: Store, key: str, known: typing.Mapping[str, typing.Container[object]] | None = None
) -> AnySettings:
    """Return settings with the values that were stored; what this version does not understand stays as it is.

    Parameters
    ----------
    settings : dataclass
        With the values of a first start; changed in place.
    store : Store
        Where they are kept.
    key : str
        Under which name.
    known : mapping
        For fields that can have only some values, which.
    """
    try:
        values = json.loads(store.get_persistent_string(key, "{}"))
    except ValueError:
        return settings
    for field in dataclasses.fields(settings):
        value = values.get(field.name) if isinstance(values, dict) else None
        understood = isinstance(value, type(getattr(settings, field.name)))
        if understood and value in (known or {}).get(field.name, [value]):
            setattr(settings, field.name, value)
    return settings


@dataclasses.dataclass
class Settings:
    """The settings, with the values of a first start."""

    source: str = ""
    """Key of the scan channel, or empty for the displayed image."""
    model: str = ""
    threshold: float = 0.5
    """Least probability of an atom that is shown, 0 to 1."""
    radius: float = 0.55
    """Radius of a ring in Å."""
    rings: bool = True
    legend: bool = True
    uncertainty: bool = True
    """Whether the uncertainty map is kept as a live data item."""
    reconstruction: bool = False
    """Whether a reconstruction of the frame is."""
    colors: dict[str, str] = dataclasses.field(default_factory=dict)
    """Colour of each class that the user has chosen one for."""
    hidden: list[str] = dataclasses.field(default_factory=list)
    """Classes whose rings are not drawn."""
    classes: str = "network"
    """How atoms are classified, see ``atoms_model.WAYS``."""
    defects: bool = False
    """Whether defects are looked for."""
    folder: str = ""
    """Where snapshots are exported to; empty for not at all."""

    def color(self, name: str, index: int) -> str:
        """Return the colour of a class, ``index`` being its place among the model's classes."""
        return self.colors.get(name) or PALETTE[index % len(PALETTE)]

    @classmethod
    def load(cls, store: Store) -> Settings:
        """Return what was stored; values that this version does not understand are left at their first ones."""
        return stored(cls(), store, KEY)

    def save(self, store: Store) -> None:
        """Store the settings."""
        store.set_persistent_string(KEY, json.dumps(dataclasses.asdict(self)))
