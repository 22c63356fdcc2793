"""The process that decides for another one: ``python -m stem_ae.explore.serve``, spoken to by its standard streams.

:mod:`stem_ae.explore.remote` is the other side. It ends when its input does.
"""

from __future__ import annotations

import sys
from typing import IO, Any

import numpy as np

from stem_ae import processes
from stem_ae.errors import StemAeError
from stem_ae.explore.explorer import Explorer
from stem_ae.explore.tuner import Tuner

Answer = tuple[dict[str, Any], processes.Arrays]


class Server:
    """Answers the requests for one explorer and one tuner."""

    def __init__(self) -> None:
        self._explorer: Explorer | None = None
        self._tuner: Tuner | None = None

    def answer(self, request: dict[str, Any], arrays: processes.Arrays) -> Answer:
        """Return the answer to a request."""
        do = request["do"]
        given: dict[str, Any] = {**arrays, **request.get("settings", {})}
        if do == "explore":
            self._explorer = Explorer(**given)
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
        return self._step(self._explorer, request, arrays)

    @staticmethod
    def _step(explorer: Explorer, request: dict[str, Any], arrays: processes.Arrays) -> Answer:
        """Tell, ask, and return the maps."""
        if "points" in arrays:
            explorer.tell(arrays["points"], arrays["values"])
        batch = request.get("batch", 0)
        points = explorer.ask(batch, arrays.get("pending", ())) if batch else np.empty((0, 2), np.int64)
        maps = {name: getattr(explorer, name).astype(np.float32) for name in ("mean", "std", "acquisition")}
        return {"measured": len(explorer.measured)}, {"points": points, **maps}


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the other side is gone."""
    server = Server()
    while True:
        try:
            request, arrays = processes.receive(requests)
        except EOFError:
            return
        try:
            values, result = server.answer(request, arrays)
        except Exception as error:  # the other side must hear of it, whatever it is
            values, result = processes.failure(error), {}
        try:
            processes.send(answers, values, result)
        except OSError:
            return


def main() -> None:
    """Serve on the standard streams."""
    serve(sys.stdin.buffer, processes.answer_stream())


if __name__ == "__main__":
    main()
