"""What the Atoms panel's part for classes by example shows and does, without any widget."""

from __future__ import annotations

import typing

import numpy as np
from nion.swift import DocumentController
from nion.swift.model import DataItem
from nion.utils import Observable

from stem_ae.elit import live
from stem_ae.errors import StemAeError

from .clicks import Clicks

if typing.TYPE_CHECKING:
    from stem_ae.classify import Examples

CLICK = "Click atoms of a class in the image, then name another class and click some of those."
ONE_MORE = "Name another class, which may be “other”, and click some of its atoms."


class ExamplesModel(Observable.Observable):
    """Collects atoms whose classes the user names by clicking on them.

    To be used in the user interface thread.

    Parameters
    ----------
    window : DocumentController
        Whose images can be clicked.
    newest : callable
        Returns the newest result if it is shown, or ``None``.
    changed : callable
        Called when there are other examples.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        newest: typing.Callable[[], live.Result | None],
        changed: typing.Callable[[], None],
    ) -> None:
        super().__init__()
        self.__window = window
        self.__newest = newest
        self.__changed = changed
        self.examples: Examples | None = None
        """What was named so far."""
        self.is_offered = False
        """Whether atoms are classified by these examples."""
        self.is_clicking = True
        """Whether a click on an atom names it."""
        self.name = ""
        """The class that the next click names."""
        self.text = CLICK
        """How many there are, and what to do."""
        self.__clicks = Clicks(window, self.__clickable, self.__clicked)

    def close(self) -> None:
        """Listen to no more clicks."""
        self.__clicks.close()

    def offer(self, on: bool) -> None:
        """Classify by examples from now on, or not."""
        self.is_offered = on
        self.notify_property_changed("is_offered")

    def add(self, x: float, y: float) -> None:
        """Name the atom nearest to a place in the image, in Å."""
        result, name = self.__newest(), self.name.strip()
        if result is None:
            self.__say("There are no atoms yet: press Start and wait for the rings.")
            return
        if not name:
            self.__say("Type the name of the class first.")
            return
        from stem_ae.classify import Examples  # with what it needs it takes a moment, which only who clicks must wait

        try:
            before = self.examples or Examples()
            self.examples = before.with_atoms(result.prediction.atoms, result.pixels, np.array([x, y]), name)
        except StemAeError as error:
            self.__say(str(error))
            return
        counts = self.examples.counts()
        words = ", ".join(f"{name}: {count}" for name, count in counts.items())
        self.__say(words if len(counts) > 1 else f"{words}. {ONE_MORE}")
        self.__changed()

    def forget(self) -> None:
        """Begin again."""
        self.examples = None
        self.__say(CLICK)
        self.__changed()

    def __clickable(self) -> DataItem.DataItem | None:
        """Return the image of the newest atoms while clicks on it name them."""
        result = self.__newest() if self.is_offered and self.is_clicking else None
        return result.frame.origin.shown_by(self.__window.document_model) if result else None

    def __clicked(self, x: float, y: float) -> None:
        if result := self.__newest():
            dy, dx = result.prediction.atoms.step
            self.add(x * dx, y * dy)

    def __say(self, text: str) -> None:
        self.text = text
        self.notify_property_changed("text")
