"""Live prediction: one worker thread that always works on the newest frame, and says how it is doing.

Knows nothing of Swift, and nothing of torch: the ensemble may be in another process (:mod:`stem_ae.elit.remote`).
"""

from __future__ import annotations

import atexit
import collections
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stem_ae import memory
from stem_ae.atoms import Atoms2D, as_sampling
from stem_ae.elit.prediction import Prediction
from stem_ae.elit.preprocess import Image, as_image
from stem_ae.elit.trust import CERTAIN_LATTICE, Evidence, Judge, Trust
from stem_ae.errors import StemAeError

if TYPE_CHECKING:  # ASE and SciPy's image functions are not needed where results are only passed on
    from stem_ae.classify import Classes
    from stem_ae.defects import Defect
    from stem_ae.reconstruct import Reconstruction

Extra = Literal["defects", "reconstruction"]
"""What a live view can show besides atoms and uncertainty."""
LEAST_PRESENCE = 0.2
"""Peaks below this probability are not looked at; what is shown above it can be changed without predicting again."""
CONFIDENT_LATTICE = 0.5
"""Least confidence (0 to 1) at which a sampling that was estimated from the lattice is used."""
RETRY_S, SECOND_OPINION_S = 5.0, 10.0
"""Seconds between estimates from the lattice: while it is needed and not clear, and as a second opinion."""
EXTRAS_PERIOD_S = 1.0
"""How often that is worked out which takes longer than finding the atoms."""
TRIM_PERIOD_S = 20.0
"""How often freed memory is given back to the system: takes milliseconds, and keeps an hour's scan flat."""
_LEAVE_S = 10.0
"""How long the end of Python waits for the frame in work."""


class Predictor(Protocol):
    """What finds the atoms: an ensemble here, or one in another process."""

    @property
    def name(self) -> str:
        """What users pick."""

    @property
    def version(self) -> str:
        """What stands for its weights."""

    @property
    def species(self) -> tuple[str, ...]:
        """Classes that it tells apart."""

    @property
    def lattice_constant(self) -> float:
        """Å, of its material's hexagonal lattice; 0 where it has none to measure with."""

    @property
    def needs_sampling(self) -> bool:
        """Whether it needs the sampling; otherwise it reads the scale from the image."""

    def __len__(self) -> int:
        """Return how many networks it has."""

    def predict(
        self, image: Image, sampling: tuple[float, float] | None, threshold: float = 0.5, classes: Classes = "network"
    ) -> Prediction:
        """Find and classify the atoms of one frame."""

    def find_defects(self, prediction: Prediction) -> list[Defect]:
        """Return the defects that a prediction shows."""

    def reconstruct(self, image: Image) -> Reconstruction:
        """Return the frame with less noise; see :func:`stem_ae.reconstruct.reconstruct`."""

    def estimate_sampling(self, image: Image) -> tuple[float, float]:
        """Return Å per pixel by the lattice, and how sure that is, 0 to 1."""


class UnknownSamplingError(StemAeError):
    """It is not known how large a pixel is; the message says how to tell."""


# --- frames and their sampling --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Å per pixel, and where the number comes from."""

    angstrom_per_px: tuple[float, float] | None
    """Å per pixel along (y, x); None: unknown, and lengths are in pixels."""
    source: Literal["calibration", "typed", "lattice", "unknown"]
    confidence: float = 1.0
    """How sure the estimate from the lattice is, 0 to 1."""
    lattice: float | None = None
    """Å per pixel by the lattice, where that is clearly seen and the sampling has another source."""
    clarity: float | None = None
    """How clearly the lattice is seen, 0 to 1; None for a material without a lattice to go by."""

    def __str__(self) -> str:
        if self.angstrom_per_px is None:
            return "not known: positions are in pixels"
        y, x = self.angstrom_per_px
        number = f"{x:.4f}" if abs(y - x) < 1e-6 * x else f"{x:.4f} × {y:.4f}"
        words = {
            "calibration": "from the image's calibration",
            "typed": "as typed here",
            "lattice": f"estimated from the lattice ({self.confidence:.0%} sure)",
        }
        return f"{number} Å/px, {words[self.source]}"


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingChoice:
    """How the sampling of a frame is found: its own calibration, a typed number (Å per pixel), or its lattice.

    Each choice estimates the lattice again.
    """

    source: Literal["calibration", "typed", "lattice"] = "calibration"
    typed: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One image to find atoms in.

    Parameters
    ----------
    image : array
        The data, any shape and type: what cannot be used is refused in the worker, with a sentence.
    calibration : (float, float) or None
        Å per pixel along (y, x) as the image states it.
    choice : SamplingChoice
        Where the sampling shall come from.
    ready : float
        ``time.perf_counter()`` when the frame was complete.
    subject : str
        Frames of the same subject, shape and calibration have the same sampling.
    origin : object
        Whatever the sender needs to recognise the frame by; not looked at here.
    classes : str or Examples
        How its atoms are classified, see :data:`stem_ae.classify.Classes`.
    """

    image: NDArray[Any]
    calibration: tuple[float, float] | None
    choice: SamplingChoice = dataclasses.field(default_factory=SamplingChoice)
    ready: float = dataclasses.field(default_factory=time.perf_counter)
    subject: str = ""
    origin: Any = None
    classes: Classes = "network"


class _SamplingFinder:
    """Finds the sampling of frames, and asks the lattice what it thinks of it."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._estimated_for: tuple[Any, ...] = ()
        self._estimate = (0.0, 0.0)
        self._good_until = 0.0

    def find(self, frame: Frame, pixels: Image) -> Sampling:
        """Return the sampling to use for the frame.

        Raises
        ------
        UnknownSamplingError
            If the chosen source does not yield one.
        """
        choice = frame.choice
        if choice.source == "typed":
            if choice.typed is None:
                raise UnknownSamplingError("Type the sampling of this image in Å per pixel.")
            return self._with_second_opinion(Sampling(as_sampling(choice.typed), "typed"), frame, pixels)
        if choice.source == "lattice":
            return self._from_lattice(frame, pixels)
        if frame.calibration is None:
            if not self._predictor.needs_sampling:
                return Sampling(None, "unknown")
            raise UnknownSamplingError(
                "This image has no length calibration: type its sampling in Å per pixel, or have it estimated from the "
                "lattice."
            )
        return self._with_second_opinion(Sampling(as_sampling(frame.calibration), "calibration"), frame, pixels)

    def forget(self) -> None:
        """Estimate from the lattice again at the next frame, which may show another specimen."""
        self._estimated_for = ()

    def _from_lattice(self, frame: Frame, pixels: Image) -> Sampling:
        value, confidence = self._ask_lattice(frame, pixels, RETRY_S)
        if not confidence >= CONFIDENT_LATTICE:
            raise UnknownSamplingError(
                f"No clear lattice was found in this image ({confidence:.0%} sure): type its sampling in Å per pixel."
            )
        return Sampling(as_sampling(value), "lattice", confidence, clarity=confidence)

    def _with_second_opinion(self, sampling: Sampling, frame: Frame, pixels: Image) -> Sampling:
        try:
            value, confidence = self._ask_lattice(frame, pixels, SECOND_OPINION_S, SECOND_OPINION_S)
        except StemAeError:  # a material without a lattice to go by
            return sampling
        lattice = value if confidence >= CERTAIN_LATTICE else None
        return dataclasses.replace(sampling, lattice=lattice, clarity=confidence)

    def _ask_lattice(
        self, frame: Frame, pixels: Image, unclear_s: float, clear_s: float = math.inf
    ) -> tuple[float, float]:
        """Return estimate and confidence. It takes as long as a prediction, so an answer is good for some seconds."""
        key = (frame.subject, frame.choice, pixels.shape, frame.calibration)
        now = time.perf_counter()
        if key != self._estimated_for or now > self._good_until:
            self._estimate = self._predictor.estimate_sampling(pixels)
            self._estimated_for = key
            self._good_until = now + (clear_s if self._estimate[1] >= CERTAIN_LATTICE else unclear_s)
        return self._estimate


# --- results --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What was found in a frame."""

    frame: Frame
    pixels: Image
    """The image that was looked at, ``(H, W)``."""
    sampling: Sampling
    prediction: Prediction
    seconds: float
    """How long the prediction took."""
    trust: Trust = dataclasses.field(default_factory=Trust)
    """Whether it can be believed."""
    defects: tuple[Defect, ...] | None = None
    """Defects, if they were looked for."""
    reconstruction: Reconstruction | None = None
    """The frame with less noise, if that was wanted."""

    def atoms(self, threshold: float) -> Atoms2D:
        """Return the atoms that are there with at least this probability."""
        return self.prediction.atoms[self.prediction.presence >= threshold]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """How the live prediction is doing."""

    seen: int = 0
    """Frames that arrived."""
    skipped: int = 0
    """Frames that a newer one overtook before they were looked at."""
    predicted: int = 0
    failed: int = 0
    """Frames that were refused or failed."""
    rate: float = 0.0
    """Predictions per second, over the last few seconds."""
    latency_s: float = 0.0
    """Median time from a complete frame to its result being shown, over the last predictions."""


class _Meter:
    """Counts frames and their times; thread safe."""

    WINDOW_S = 5.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._finished: collections.deque[float] = collections.deque(maxlen=200)
        self._latencies: collections.deque[float] = collections.deque(maxlen=50)

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1
            if what == "predicted":
                self._finished.append(time.perf_counter())

    def shown(self, latency_s: float) -> None:
        with self._lock:
            self._latencies.append(latency_s)

    def statistics(self) -> Statistics:
        with self._lock:
            since = time.perf_counter() - self.WINDOW_S
            recent = [t for t in self._finished if t >= since]
            rate = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
            latency = float(np.median(self._latencies)) if self._latencies else 0.0
            c = self._counts
            return Statistics(c["seen"], c["skipped"], c["predicted"], c["failed"], rate, latency)


# --- the worker -----------------------------------------------------------------------------------------------------


def _sentence(error: Exception) -> str:
    """Return what to tell the user about an error."""
    if isinstance(error, StemAeError):
        return str(error)
    return f"The prediction failed: {error or type(error).__name__} (the log has the details)."


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model is at work."""

    name: str
    version: str
    species: tuple[str, ...]
    members: int

    @classmethod
    def of(cls, predictor: Predictor) -> Model:
        """Return what is at work now."""
        return cls(predictor.name, predictor.version, tuple(predictor.species), len(predictor))


class _Looking:
    """State that one predictor keeps between frames."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._samplings = _SamplingFinder(predictor)
        self._judge = Judge(predictor.lattice_constant)
        self._was_strange: bool | None = None

    def at(self, frame: Frame) -> Result:
        """Return the atoms of a frame, and whether they can be believed."""
        start = time.perf_counter()
        pixels = as_image(frame.image)
        sampling = self._samplings.find(frame, pixels)
        step = sampling.angstrom_per_px
        prediction = self.predictor.predict(pixels, step, threshold=LEAST_PRESENCE, classes=frame.classes)
        is_strange = prediction.conditions > 1
        if self._was_strange not in (None, is_strange):  # another specimen, perhaps, with another lattice
            self._samplings.forget()
            if sampling.source != "lattice":
                sampling = self._samplings.find(frame, pixels)
        self._was_strange = is_strange
        evidence = Evidence.of(prediction, sampling.lattice, sampling.clarity)
        choice = frame.choice
        trust = self._judge.judge(
            evidence, (frame.subject, choice.source, choice.typed, pixels.shape, frame.calibration)
        )
        return Result(frame, pixels, sampling, prediction, time.perf_counter() - start, trust)


class LiveWorker:
    """Finds atoms in the newest frame, over and over, in a thread of its own.

    Parameters
    ----------
    load : callable
        Returns what finds the atoms. Called once, inside the thread: it may take its time.
    changed : callable
        Called in the worker thread when :attr:`state`, :attr:`result` or :attr:`error` has changed. Must not block.
    """

    def __init__(self, load: Callable[[], Predictor], changed: Callable[[LiveWorker], None]) -> None:
        self._load = load
        self._changed = changed
        self._meter = _Meter()
        self._condition = threading.Condition()
        self._next: Frame | None = None
        self._works: collections.deque[Callable[[Predictor], None]] = collections.deque()
        self._shown: Result | None = None
        self._closed = False
        self.state: Literal["loading", "running", "failed"] = "loading"
        self.model: Model | None = None
        """The model, once it is loaded."""
        self.result: Result | None = None
        """The newest result, of the newest frame that could be used."""
        self.extras: frozenset[Extra] = frozenset()
        """What else is wanted."""
        self._extras_at = -math.inf
        self._trimmed_at = -math.inf
        self.error = ""
        """One sentence on what is wrong with the model or the newest frame; empty if nothing is."""
        self.lacks_sampling = False
        """Whether that is the frame's sampling."""
        self._thread = threading.Thread(target=self._run, name="stem-ae live", daemon=True)
        atexit.register(self._leave)  # a thread inside torch when Python ends brings the process down
        self._thread.start()

    # any thread

    def submit(self, frame: Frame) -> None:
        """Hand over a frame. It replaces one that is still waiting; never blocks."""
        with self._condition:
            if self._closed:
                return
            self._meter.count("seen")
            if self._next is not None:
                self._meter.count("skipped")
            self._next = frame
            self._condition.notify()

    def between_frames(self, work: Callable[[Predictor], None]) -> None:
        """Have something done with the predictor in the worker's thread, before the next frame."""
        with self._condition:
            self._works.append(work)
            self._condition.notify()

    def shown(self, result: Result) -> None:
        """Say that a result is on the screen now: this is what the latency is measured to. The first time counts."""
        if result is not self._shown:
            self._shown = result
            self._meter.shown(time.perf_counter() - result.frame.ready)

    @property
    def statistics(self) -> Statistics:
        """How the prediction is doing, now."""
        return self._meter.statistics()

    def close(self, timeout_s: float = 0.0) -> None:
        """Stop after the frame in work. Does not wait for that unless told how long."""
        with self._condition:
            self._closed = True
            self._next = None
            self._condition.notify()
        if timeout_s and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _leave(self) -> None:
        self.close(_LEAVE_S)

    # worker thread

    def _run(self) -> None:
        try:
            self._look_until_closed()
        finally:
            atexit.unregister(self._leave)

    def _look_until_closed(self) -> None:
        try:
            predictor = self._load()
            model = Model.of(predictor)
        except Exception as error:  # whatever a model file or its import can raise, the user must read of it
            self._log(error)
            self._tell(state="failed", error=_sentence(error))
            return
        self._tell(state="running", model=model)
        looking = _Looking(predictor)
        while (job := self._wait()) is not None:
            if isinstance(job, Frame):
                self._work(looking, job)
            else:
                self._do(predictor, job)

    def _wait(self) -> Frame | Callable[[Predictor], None] | None:
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._works or self._next is not None)
            if self._works and not self._closed:
                return self._works.popleft()
            frame, self._next = self._next, None
            return frame

    def _do(self, predictor: Predictor, work: Callable[[Predictor], None]) -> None:
        try:
            work(predictor)
        except Exception as error:  # as with a frame
            self._log(error)
            self._tell(error=_sentence(error))
            return
        self._tell(model=Model.of(predictor))

    def _work(self, looking: _Looking, frame: Frame) -> None:
        start = time.perf_counter()
        if start - self._trimmed_at >= TRIM_PERIOD_S:
            self._trimmed_at = start
            memory.give_back()
        try:
            result = looking.at(frame)
        except Exception as error:  # a frame that cannot be used must not end the live view
            self._meter.count("failed")
            self._log(error)
            self._tell(error=_sentence(error), lacks_sampling=isinstance(error, UnknownSamplingError))
            return
        self._meter.count("predicted")
        self._tell(result=result, error="", lacks_sampling=False)
        if self.extras and time.perf_counter() - self._extras_at >= EXTRAS_PERIOD_S:
            self._add_extras(looking.predictor, result)

    def _add_extras(self, predictor: Predictor, result: Result) -> None:
        """Add what takes longer to a result that is shown already."""
        wanted = self.extras
        try:
            if "defects" in wanted:
                result = dataclasses.replace(result, defects=tuple(predictor.find_defects(result.prediction)))
            if "reconstruction" in wanted:
                result = dataclasses.replace(result, reconstruction=predictor.reconstruct(result.pixels))
        except Exception as error:  # as with the frame itself
            self._log(error)
            self._tell(error=_sentence(error))
            return
        self._extras_at = time.perf_counter()
        self._tell(result=result)

    def _log(self, error: Exception) -> None:
        """Log what is not for the user to put right, once in a row: frames come many times a second."""
        if not isinstance(error, StemAeError) and _sentence(error) != self.error:
            logging.getLogger(__name__).error("live prediction failed", exc_info=error)

    def _tell(self, **changes: Any) -> None:
        with self._condition:
            if self._closed:
                return
            for name, value in changes.items():
                setattr(self, name, value)
        self._changed(self)
