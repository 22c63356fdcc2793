"""What the started Nion Swift is told to do: written by the starter, read by the application."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class Order:
    """One start of Nion Swift.

    Parameters
    ----------
    folder : path or None
        Where Swift keeps project, settings and log instead of the user's own places; ``None``: the user's own.
    scenario : str or None
        What to do once the window is open: ``package.module:function``, an ``async`` function of the document window
        and the options that returns something for ``result``.
    options : dict
        Keyword arguments of the scenario.
    close : bool
        Close Swift when the scenario has returned.
    result : path or None
        Where to write the scenario's answer as JSON: ``{"value": ...}`` or ``{"error": traceback}``.
    """

    folder: pathlib.Path | None = None
    scenario: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    close: bool = False
    result: pathlib.Path | None = None

    def write(self, path: pathlib.Path) -> pathlib.Path:
        """Write the order as JSON."""
        values = {
            name: str(value) if isinstance(value, pathlib.Path) else value for name, value in vars(self).items()
        }
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: pathlib.Path) -> Order:
        """Read what :meth:`write` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        for name in ("folder", "result"):
            values[name] = pathlib.Path(values[name]) if values[name] else None
        return cls(**values)
