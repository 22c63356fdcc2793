"""The process that predicts for another one: ``python -m stem_ae.elit.serve``, spoken to through its standard streams.

:mod:`stem_ae.elit.remote` is the other side. It ends when its input does.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from typing import IO, Any

from stem_ae import elit, processes
from stem_ae.elit.ensemble import Ensemble
from stem_ae.elit.prediction import Prediction
from stem_ae.errors import StemAeError

Answer = tuple[dict[str, Any], processes.Arrays]


class Server:
    """Answers the requests for one ensemble at a time."""

    def __init__(self) -> None:
        self._ensemble: Ensemble | None = None

    def answer(self, request: dict[str, Any], arrays: processes.Arrays) -> Answer:
        """Return the answer to a request."""
        if request["do"] == "load":
            return self._load(request["name"])
        if self._ensemble is None:
            raise StemAeError("No model is loaded.")
        if request["do"] == "estimate_sampling":
            return {"estimate": self._ensemble.estimate_sampling(arrays["image"])}, {}
        prediction = self._ensemble.predict(arrays["image"], tuple(request["sampling"]), request["threshold"])
        return packed(prediction)

    def _load(self, name: str) -> Answer:
        self._ensemble = ensemble = elit.load(name)
        facts = {"name": ensemble.name, "version": ensemble.version, "species": ensemble.species, "size": len(ensemble)}
        return facts, {}


def packed(prediction: Prediction) -> Answer:
    """Return a prediction as what a message can hold."""
    atoms = {field.name: getattr(prediction.atoms, field.name) for field in dataclasses.fields(prediction.atoms)}
    values = {name: atoms.pop(name) for name in ("species", "shape", "sampling")}
    values |= {"working_sampling": prediction.working_sampling, "novelty": prediction.novelty}
    maps = {name: getattr(prediction, name) for name in ("working_probability", "working_uncertainty", "uncertainty")}
    return values, {**{f"atoms.{name}": array for name, array in atoms.items()}, **maps}


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the other side is gone."""
    server = Server()
    while True:
        try:
            request, arrays = processes.receive(requests)
        except EOFError:
            return
        try:
            values, arrays = server.answer(request, arrays)
        except StemAeError as error:
            values, arrays = {"refused": str(error)}, {}
        except Exception as error:  # the other side must hear of it, whatever it is
            reason = str(error) or type(error).__name__
            values, arrays = {"failed": reason, "traceback": traceback.format_exc()}, {}
        try:
            processes.send(answers, values, arrays)
        except OSError:
            return


def main() -> None:
    """Serve on the standard streams; whatever a library prints goes to the error stream."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    processes.widen(answers)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
