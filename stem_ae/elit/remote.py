"""Prediction in a process of its own.

Inside Nion Swift a prediction takes ten times its computing time, because each of its thousands of small operations has
to wait for Python's global lock, which the user interface holds most of the time. In its own process it does not wait.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stem_ae import processes
from stem_ae.elit.prediction import Prediction
from stem_ae.elit.wire import packed, unpacked
from stem_ae.errors import StemAeError

if TYPE_CHECKING:
    from stem_ae.classify import Classes
    from stem_ae.defects import Defect
    from stem_ae.elit.selection import Verdict
    from stem_ae.reconstruct import Reconstruction


class PredictionProcess:
    """A Python process that loads ensembles and predicts with them.

    It is started when first needed, started again if it was killed, and ends with this one or when closed. Thread safe:
    one request at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = processes.Companion(
            "stem_ae.elit.serve", "finds the atoms",
            "it is started again for the next frame; if it happens again, free some memory or look into the log",
        )  # fmt: skip
        self._loaded: tuple[RemoteEnsemble, int | None] | None = None
        """The ensemble there, and which process that is."""

    def load(self, name: str) -> RemoteEnsemble:
        """Load an ensemble by name or path, and return what stands for it here.

        Raises
        ------
        StemAeError
            If there is no such model, or no process can be started.
        """
        with self._lock:
            self._process.renew()
            ensemble = RemoteEnsemble(self, name)
            self._load(ensemble)
            return ensemble

    def renew(self) -> None:
        """Let the next request start a new process if device, threads or the folder of models were changed."""
        with self._lock:
            self._process.renew()

    def close(self) -> None:
        """End the process, in the middle of a request if there is one."""
        self._process.kill()
        with self._lock:  # whoever waits for an answer has seen the end by now
            self._process.close()

    def request(
        self, ensemble: RemoteEnsemble, values: dict[str, Any], arrays: processes.Arrays
    ) -> tuple[dict[str, Any], processes.Arrays]:
        """Return the answer to a request for an ensemble, which is loaded first if another one was used meanwhile."""
        with self._lock:
            if self._loaded != (ensemble, self._process.pid):
                self._load(ensemble)
            return self._process.ask(values, arrays)

    def _load(self, ensemble: RemoteEnsemble) -> None:
        self._loaded = None
        self._process.start()
        request = {"do": "load", "name": ensemble.source, "members": ensemble.members}
        ensemble.facts = self._process.ask(request)[0]
        self._loaded = ensemble, self._process.pid


class RemoteEnsemble:
    """An ensemble in another process. Made by :meth:`PredictionProcess.load`."""

    def __init__(self, process: PredictionProcess, source: str) -> None:
        self._process = process
        self.source = source
        """What it was loaded by: name or path."""
        self.members: list[int] | None = None
        """Which of its networks have a say; None: all."""
        self.facts: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """What users pick."""
        return str(self.facts["name"])

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that stand for the weights."""
        return str(self.facts["version"])

    @property
    def species(self) -> tuple[str, ...]:
        """Classes that the ensemble tells apart."""
        return tuple(self.facts["species"])

    @property
    def lattice_constant(self) -> float:
        """Å, of its material's hexagonal lattice; 0 where it has none to measure with."""
        return float(self.facts["lattice_constant"])

    @property
    def needs_sampling(self) -> bool:
        """Whether it needs the sampling; otherwise it reads the scale from the image."""
        return bool(self.facts["needs_sampling"])

    def __len__(self) -> int:
        """Return how many networks it has."""
        return int(self.facts["size"])

    def predict(
        self, image: ArrayLike, sampling: tuple[float, float] | None, threshold: float = 0.5,
        classes: Classes = "network",
    ) -> Prediction:  # fmt: skip
        """Find and classify the atoms of one frame; see :meth:`stem_ae.elit.ensemble.Ensemble.predict`."""
        request: dict[str, Any] = {"do": "predict", "sampling": sampling and list(sampling), "threshold": threshold}
        given: processes.Arrays = {"image": np.asarray(image, np.float32)}
        if isinstance(classes, str):
            request["classes"] = classes
        else:
            request["examples"], given["looks"] = classes.names, classes.looks
        values, arrays = self._process.request(self, request, given)
        return unpacked(values, arrays)

    def judge(self, image: ArrayLike, sampling: tuple[float, float] | None) -> tuple[Verdict, ...]:
        """Return the verdict on each network; see :func:`stem_ae.elit.selection.judge`.

        Raises
        ------
        StemAeError
            If the sampling is not known, or the image shows too few atoms to judge by.
        """
        from stem_ae.elit.selection import Verdict

        if sampling is None:
            raise StemAeError("Checking the networks needs the sampling of this image: type it in Å per pixel.")
        request = {"do": "judge", "sampling": list(sampling)}
        values, _ = self._process.request(self, request, {"image": np.asarray(image, np.float32)})
        return tuple(Verdict(**verdict) for verdict in values["verdicts"])

    def use(self, members: list[int]) -> None:
        """Give only some of the networks a say, by their numbers.

        Raises
        ------
        StemAeError
            If there are none of these numbers.
        """
        self.facts, _ = self._process.request(self, {"do": "use", "members": members}, {})
        self.members = members

    def find_defects(self, prediction: Prediction) -> list[Defect]:
        """Return the defects that a prediction shows; see :func:`stem_ae.defects.find_defects`."""
        from stem_ae.defects import Defect

        about, arrays = packed(prediction)
        values, _ = self._process.request(self, {"do": "find_defects", "prediction": about}, arrays)
        return [
            Defect(**defect | {name: tuple(defect[name]) for name in ("position", "atoms")})
            for defect in values["defects"]
        ]

    def reconstruct(self, image: ArrayLike) -> Reconstruction:
        """Return a frame with less noise; see :func:`stem_ae.reconstruct.reconstruct`."""
        from stem_ae.reconstruct import Reconstruction

        values, arrays = self._process.request(self, {"do": "reconstruct"}, {"image": np.asarray(image, np.float32)})
        return Reconstruction(arrays["mean"], arrays["std"], values["noise"])

    def estimate_sampling(self, image: ArrayLike) -> tuple[float, float]:
        """Measure the sampling from the lattice; see :func:`stem_ae.elit.calibrate.estimate_sampling`."""
        values, _ = self._process.request(self, {"do": "estimate_sampling"}, {"image": np.asarray(image, np.float32)})
        sampling, confidence = values["estimate"]
        return sampling, confidence
