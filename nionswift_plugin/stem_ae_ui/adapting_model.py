"""What the Atoms panel's part for adapting the model shows and does, without any widget."""

from __future__ import annotations

import typing

from nion.swift import DocumentController
from nion.utils import Observable

from stem_ae.elit import live
from stem_ae.elit.adapting import Adaptation
from stem_ae.errors import StemAeError
from stem_ae.words import duration

from .activities import Works

UPDATE_TASK = "stem_ae adaptation update"


class AdaptingModel(Observable.Observable):
    """Adapts the model at work to the frame that is shown, in a process of its own, and can take it back.

    Where the new model finds what cannot be atoms, it asks whether to keep it.

    To be used in the user interface thread.

    Parameters
    ----------
    window : DocumentController
        Whose tasks bring the progress here.
    subject : callable
        Returns the name of the model at work and its newest result, or ``None``.
    use : callable
        Makes another model the one at work, by its name.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        subject: typing.Callable[[], tuple[str, live.Result] | None],
        use: typing.Callable[[str], None],
    ) -> None:
        super().__init__()
        self.__window = window
        self.__subject = subject
        self.__use = use
        self.__adaptation: Adaptation | None = None
        self.__doubtful: Adaptation | None = None
        self.__earlier: list[str] = []
        self.__works = Works()
        self.__closed = False
        self.text = ""
        """What is going on, what came out, or what to do."""

    def close(self) -> None:
        """Cancel what is under way."""
        self.__closed = True
        self.__works.close()
        self.__window.clear_task(UPDATE_TASK)
        if self.__adaptation:
            self.__adaptation.cancel()
        if self.__doubtful:
            self.__doubtful.discard()

    @property
    def is_running(self) -> bool:
        """Whether an adaptation is under way."""
        return self.__adaptation is not None

    @property
    def percent(self) -> int:
        """How much of it is done."""
        return round(100 * self.__adaptation.fraction) if self.__adaptation else 0

    @property
    def is_asking(self) -> bool:
        """Whether the user has to decide whether to keep a doubtful model."""
        return self.__doubtful is not None

    @property
    def can_revert(self) -> bool:
        """Whether there is a model to go back to."""
        return bool(self.__earlier) and not self.is_running and not self.is_asking

    def start(self) -> None:
        """Adapt to the frame that is shown."""
        subject = self.__subject()
        if subject is None:
            self.__say("There is no frame to adapt to yet: press Start and wait until a frame was looked at.")
            return
        name, result = subject
        self.discard()
        sampling = result.sampling.angstrom_per_px
        if sampling is None:
            self.__say("Adapting needs the sampling of this image: type it in Å per pixel.")
            return
        try:
            self.__adaptation = Adaptation(name, [result.pixels], sampling, self.__changed)
        except StemAeError as error:
            self.__say(str(error))
            return
        self.__works.begin("Adapting").tell("starting")
        self.__say("Adapting: starting")

    def cancel(self) -> None:
        """Stop adapting; the model stays as it was."""
        if self.__adaptation:
            self.__adaptation.cancel()

    def keep(self) -> None:
        """Keep the doubtful model, and use it."""
        if adaptation := self.__doubtful:
            self.__doubtful = None
            adaptation.keep()
            self.__adopt(adaptation)

    def discard(self) -> None:
        """Delete the doubtful model."""
        if adaptation := self.__doubtful:
            self.__doubtful = None
            adaptation.discard()
            self.__say("Discarded; the model is as it was.")

    def revert(self) -> None:
        """Go back to the model from before the last adaptation. The adapted one stays in the list."""
        if self.can_revert:
            name = self.__earlier.pop()
            self.__use(name)
            self.__say(f"Back to “{name}”. The adapted model stays in the list.")

    def __changed(self, adaptation: Adaptation) -> None:
        if not self.__closed:
            self.__window.add_task(UPDATE_TASK, self.__update)

    def __update(self) -> None:
        adaptation = self.__adaptation
        if adaptation is None:
            return
        if adaptation.state == "running":
            left = adaptation.seconds_left
            if work := self.__works.keep("Adapting", True):
                work.tell("" if left is not None else adaptation.text, left)
            still = "" if left is None else f" · at most {duration(left)} left"
            self.__say(f"Adapting: {adaptation.text}{still}")
            return
        self.__adaptation = None
        self.__works.end("Adapting")
        if adaptation.state != "done" or adaptation.comparison is None or not adaptation.comparison.gained:
            self.__say(adaptation.text[:1].upper() + adaptation.text[1:])
        elif adaptation.is_waiting:
            self.__doubtful = adaptation
            self.__say(f"{adaptation.comparison.doubt} Keep the adapted model all the same?")
        else:
            self.__adopt(adaptation)

    def __adopt(self, adaptation: Adaptation) -> None:
        """Use the new model."""
        assert adaptation.comparison
        self.__earlier.append(adaptation.model)
        self.__use(adaptation.comparison.name)
        self.__say(f"Now using {adaptation.comparison}")

    def __say(self, text: str) -> None:
        self.text = text
        for name in ("text", "is_running", "is_asking", "percent", "can_revert"):
            self.notify_property_changed(name)
