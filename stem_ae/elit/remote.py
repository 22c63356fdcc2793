"""Prediction in a process of its own.

Inside Nion Swift a prediction takes ten times its computing time, because each of its thousands of small operations has
to wait for Python's global lock, which the user interface holds most of the time. In its own process it does not wait.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from stem_ae import processes
from stem_ae.elit.prediction import Prediction
from stem_ae.elit.wire import packed, unpacked
from stem_ae.errors import StemAeError

if TYPE_CHECKING:
    from stem_ae.classify import Way
    from stem_ae.defects import Defect


class PredictionProcess:
    """A Python process that loads ensembles and predicts with them.

    It is started when first needed, started again if it was killed, and ends with this one or when closed. Thread safe:
    one request at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: RemoteEnsemble | None = None
        self._closed = False

    def load(self, name: str) -> RemoteEnsemble:
        """Load an ensemble by name or path, and return what stands for it here.

        Raises
        ------
        StemAeError
            If there is no such model, or no process can be started.
        """
        with self._lock:
            ensemble = RemoteEnsemble(self, name)
            self._load(ensemble)
            return ensemble

    def close(self) -> None:
        """End the process, in the middle of a request if there is one."""
        self._closed = True
        if process := self._process:
            process.kill()
        with self._lock:  # whoever waits for an answer has seen the end by now
            self._reap()

    def request(
        self, ensemble: RemoteEnsemble, values: dict[str, Any], arrays: processes.Arrays
    ) -> tuple[dict[str, Any], processes.Arrays]:
        """Return the answer to a request for an ensemble, which is loaded first if another one was used meanwhile."""
        with self._lock:
            if self._loaded is not ensemble or self._process is None or self._process.poll() is not None:
                self._load(ensemble)
            return self._exchange(values, arrays)

    def _load(self, ensemble: RemoteEnsemble) -> None:
        self._start()
        self._loaded = None
        ensemble.facts = self._exchange({"do": "load", "name": ensemble.source}, {})[0]
        self._loaded = ensemble

    def _start(self) -> None:
        if self._closed:
            raise StemAeError("The prediction was ended.")
        if self._process is not None and self._process.poll() is None:
            return
        cores = max(1, (os.cpu_count() or 2) - 1)  # the user interface needs one too
        try:
            self._process = subprocess.Popen(
                [processes.python(), "-m", "stem_ae.elit.serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=processes.environment(cores), **processes.without_window(),
            )  # fmt: skip
        except OSError as error:
            raise StemAeError(f"The process that finds the atoms could not be started: {error}.") from error
        for pipe in self._pipes():
            processes.widen(pipe)

    def _reap(self) -> int | None:
        """Let go of a process that ends, and return its exit code."""
        process, self._process, self._loaded = self._process, None, None
        if process is None:
            return None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what could not be sent any more
                if pipe:
                    pipe.close()
        return process.wait()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _exchange(
        self, values: dict[str, Any], arrays: processes.Arrays
    ) -> tuple[dict[str, Any], processes.Arrays]:
        requests, answers = self._pipes()
        try:
            processes.send(requests, values, arrays)
            answer, result = processes.receive(answers)
        except (EOFError, OSError) as error:
            code = self._reap()
            raise StemAeError(
                f"The process that finds the atoms ended unexpectedly (exit code {code}); it is started again for the "
                "next frame. If it happens again, free some memory or look into the log."
            ) from error
        return processes.checked(answer), result


class RemoteEnsemble:
    """An ensemble in another process. Made by :meth:`PredictionProcess.load`."""

    def __init__(self, process: PredictionProcess, source: str) -> None:
        self._process = process
        self.source = source
        """What it was loaded by: name or path."""
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

    def __len__(self) -> int:
        """Return how many networks it has."""
        return int(self.facts["size"])

    def predict(
        self, image: ArrayLike, sampling: tuple[float, float], threshold: float = 0.5, classes: Way = "network"
    ) -> Prediction:
        """Find and classify the atoms of one frame; see :meth:`stem_ae.elit.ensemble.Ensemble.predict`."""
        request = {"do": "predict", "sampling": list(sampling), "threshold": threshold, "classes": classes}
        values, arrays = self._process.request(self, request, {"image": np.asarray(image, np.float32)})
        return unpacked(values, arrays)

    def find_defects(self, prediction: Prediction) -> list[Defect]:
        """Return the defects that a prediction shows; see :func:`stem_ae.defects.find_defects`."""
        from stem_ae.defects import Defect

        about, arrays = packed(prediction)
        values, _ = self._process.request(self, {"do": "find_defects", "prediction": about}, arrays)
        return [
            Defect(**defect | {name: tuple(defect[name]) for name in ("position", "atoms")})
            for defect in values["defects"]
        ]

    def estimate_sampling(self, image: ArrayLike) -> tuple[float, float]:
        """Measure the sampling from the lattice; see :func:`stem_ae.elit.calibrate.estimate_sampling`."""
        values, _ = self._process.request(self, {"do": "estimate_sampling"}, {"image": np.asarray(image, np.float32)})
        sampling, confidence = values["estimate"]
        return sampling, confidence
