"""The process that predicts for another one: ``python -m stem_ae.elit.serve``, spoken to through its standard streams.

:mod:`stem_ae.elit.remote` is the other side. It ends when its input does.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from stem_ae import elit, processes
from stem_ae.classify import Examples
from stem_ae.elit import selection
from stem_ae.elit.ensemble import Ensemble
from stem_ae.elit.wire import packed, unpacked
from stem_ae.errors import StemAeError

Answer = tuple[dict[str, Any], processes.Arrays]


class Server:
    """Answers the requests for one ensemble at a time."""

    def __init__(self) -> None:
        self._whole: Ensemble | None = None
        self._ensemble: Ensemble | None = None
        """Those of its networks that have a say."""

    def answer(self, request: dict[str, Any], arrays: processes.Arrays) -> Answer:
        """Return the answer to a request."""
        if request["do"] == "load":
            self._whole = elit.load(request["name"])
            return self._use(self._whole, request["members"])
        if self._whole is None or self._ensemble is None:
            raise StemAeError("No model is loaded.")
        if request["do"] == "use":
            return self._use(self._whole, request["members"])
        if request["do"] == "judge":
            verdicts = selection.judge(self._whole, arrays["image"], tuple(request["sampling"]))
            return {"verdicts": [dataclasses.asdict(verdict) for verdict in verdicts]}, {}
        if request["do"] == "estimate_sampling":
            return {"estimate": self._ensemble.estimate_sampling(arrays["image"])}, {}
        if request["do"] == "reconstruct":
            result = self._ensemble.reconstruct(arrays["image"])
            return {"noise": result.noise}, {"mean": result.mean, "std": result.std}
        if request["do"] == "find_defects":
            found = self._ensemble.find_defects(unpacked(request["prediction"], arrays))
            return {"defects": [dataclasses.asdict(defect) for defect in found]}, {}
        step, threshold, classes = request["sampling"], request["threshold"], request.get("classes")
        if classes is None:
            classes = Examples(tuple(request["examples"]), arrays["looks"])
        step = None if step is None else tuple(step)
        return packed(self._ensemble.predict(arrays["image"], step, threshold, classes=classes))

    def _use(self, whole: Ensemble, members: list[int] | None) -> Answer:
        ensemble = whole if members is None or len(members) == len(whole) else whole.subset(members)
        self._ensemble = ensemble
        names = ("name", "version", "species", "lattice_constant", "needs_sampling")
        return {name: getattr(ensemble, name) for name in names} | {"size": len(ensemble)}, {}


if __name__ == "__main__":
    processes.serve(Server().answer)
