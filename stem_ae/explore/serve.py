"""The process that decides for another one: ``python -m stem_ae.explore.serve``, spoken to by its standard streams.

:mod:`stem_ae.explore.remote` is the other side. It ends when its input does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.explore.explorer import Explorer
from stem_ae.explore.tuner import Tuner

Answer = tuple[dict[str, Any], processes.Arrays]


class Server:
    """Answers the requests for one explorer and one tuner."""

    def __init__(self) -> None:
        self._explorer: Explorer | None = None
        self._others: dict[int, Explorer] = {}
        self._tuner: Tuner | None = None

    def answer(self, request: dict[str, Any], arrays: processes.Arrays) -> Answer:
        """Return the answer to a request."""
        do = request["do"]
        given: dict[str, Any] = {**arrays, **request.get("settings", {})}
        if do == "nothing":
            return {}, {}
        if do == "explore":
            self._explorer, self._others = Explorer(**{"device": "auto", **given}), {}
            return {}, {"candidates": self._explorer.candidates}
        if do == "tune":
            self._tuner = Tuner(**given)
            return {}, {"trial": self._tuner.ask()}
        if do == "rewarded" and self._tuner is not None:
            self._tuner.tell(arrays["trial"], request["reward"])
            return {}, {"trial": self._tuner.ask(), "best": self._tuner.best}
        if self._explorer is None:
            raise StemAeError("Nothing is being explored: start an experiment first.")
        if do == "revalue":
            self._explorer = self._explorer.with_values(arrays["values"])
        if do == "suppose":
            return self._step(self._supposed(self._explorer, request["number"], arrays["values"]), {}, {})
        return self._step(self._explorer, request, arrays)

    def _supposed(self, explorer: Explorer, number: int, values: NDArray[np.float64]) -> Explorer:
        """Return the explorer of another property of the same points; it goes on where it was, if it can."""
        other = self._others.get(number)
        known = 0 if other is None else len(other.measured)
        goes_on = other is not None and np.array_equal(other.measured, explorer.measured[:known])
        if other is None or not goes_on or not np.array_equal(other.values, values[:known], equal_nan=True):
            self._others[number] = explorer.with_values(values)
        elif len(values) > known:
            other.tell(explorer.points[known:], values[known:])
        return self._others[number]

    @staticmethod
    def _step(explorer: Explorer, request: dict[str, Any], arrays: processes.Arrays) -> Answer:
        """Tell, ask, and return the maps."""
        if "points" in arrays:
            explorer.tell(arrays["points"], arrays["values"])
        batch = request.get("batch", 0)
        points = explorer.ask(batch, arrays.get("pending", ())) if batch else np.empty((0, 2), np.int64)
        maps = {name: getattr(explorer, name).astype(np.float32) for name in ("mean", "std", "acquisition")}
        return {"measured": len(explorer.measured)}, {"points": points, **maps}


if __name__ == "__main__":
    processes.serve(Server().answer)
