"""What the Atoms panel's part for choosing among an ensemble's networks shows and does, without any widget."""

from __future__ import annotations

import functools
import typing

from nion.swift import DocumentController
from nion.utils import ListModel, Observable

from stem_ae.elit import live, remote
from stem_ae.errors import StemAeError
from stem_ae.words import counted

from .activities import Works

if typing.TYPE_CHECKING:
    from stem_ae.elit.selection import Verdict

UPDATE_TASK = "stem_ae networks update"


class Network(Observable.Observable):
    """One network as the panel lists it."""

    def __init__(self, verdict: Verdict, changed: typing.Callable[[], None]) -> None:
        super().__init__()
        self.title = f"Network {verdict.member + 1}"
        self.member = verdict.member
        self.reason = verdict.reason
        """Why it is to be trusted, or not."""
        self.__used = verdict.chosen
        self.__changed = changed

    @property
    def used(self) -> bool:
        """Whether it has a say."""
        return self.__used

    @used.setter
    def used(self, value: bool) -> None:
        if value != self.__used:
            self.__used = value
            self.notify_property_changed("used")
            self.__changed()


class NetworksModel(Observable.Observable):
    """Judges an ensemble's networks by the atoms that each would find in the frame, and leaves out the bad ones.

    To be used in the user interface thread. Judgement and choice are of one image: when another is looked at, all
    networks have a say again.

    Parameters
    ----------
    window : DocumentController
        Whose tasks bring the verdicts here.
    at_work : callable
        Returns the worker and its newest result, or ``None``.
    changed : callable
        Called when other networks are at work.
    """

    def __init__(
        self,
        window: DocumentController.DocumentController,
        at_work: typing.Callable[[], tuple[live.LiveWorker, live.Result] | None],
        changed: typing.Callable[[], None],
    ) -> None:
        super().__init__()
        self.__window = window
        self.__at_work = at_work
        self.__changed = changed
        self.__closed = False
        self.__image: typing.Hashable = None
        self.__works = Works()
        self.networks: ListModel.ListModel[Network] = ListModel.ListModel()
        self.text = ""
        """What was found, or what is wrong."""

    def close(self) -> None:
        """Wait for no more verdicts."""
        self.__closed = True
        self.__works.close()
        self.__window.clear_task(UPDATE_TASK)

    def clear(self) -> None:
        """Forget the verdicts: another model is at work, with all its networks."""
        self.__works.close()
        self.networks.items = []
        self.__say("")

    def give_up(self) -> None:
        """Wait no more for verdicts that will not come: nothing is looked at any more."""
        self.__works.close()

    def looked_at(self, image: typing.Hashable) -> None:
        """Say which image is looked at now; what was thought of the networks on another one goes."""
        if image == self.__image:
            return
        self.__image = image
        if self.networks.items:
            if at_work := self.__at_work():
                at_work[0].between_frames(functools.partial(_use, [network.member for network in self.networks.items]))
            self.clear()

    def check(self) -> None:
        """Judge all networks on the newest frame, and use those that draw plausible atoms."""
        at_work = self.__at_work()
        if at_work is None:
            self.__say("There is no frame to check the networks on: press Start and wait until one was looked at.")
            return
        worker, result = at_work
        self.__works.begin("Checking the networks")
        self.__say("Checking…")
        worker.between_frames(functools.partial(self.__judge, result, self.__image))

    def __judge(self, result: live.Result, image: typing.Hashable, predictor: live.Predictor) -> None:
        """Judge, in the worker's thread."""
        if not isinstance(predictor, remote.RemoteEnsemble):
            self.__works.close()
            return
        verdicts: tuple[Verdict, ...] = ()
        text = ""
        try:
            verdicts = predictor.judge(result.pixels, result.sampling.angstrom_per_px)
        except StemAeError as error:
            text = str(error)
        finally:
            self.__works.close()
        if not self.__closed:
            self.__window.add_task(UPDATE_TASK, functools.partial(self.__show, verdicts, text, image))

    def __show(self, verdicts: tuple[Verdict, ...], text: str, image: typing.Hashable) -> None:
        if image != self.__image:
            self.__say("Another image came while the networks were judged: check them again.")
            return
        self.networks.items = [Network(verdict, self.__chosen) for verdict in verdicts]
        self.__say(text)
        if verdicts:
            self.__chosen()

    def __chosen(self) -> None:
        """Use the networks that are ticked."""
        members = [network.member for network in self.networks.items if network.used]
        count = len(self.networks.items)
        if not members:
            self.__say("At least one network must have a say: tick one.")
            return
        if len(members) == count:
            all_of_them = f"All {count} networks draw" if count > 1 else "The network draws"
            self.__say(f"{all_of_them} plausible atoms.")
        else:
            self.__say(f"{len(members)} of {counted(count, 'network')} {'has' if len(members) == 1 else 'have'} a say.")
        if at_work := self.__at_work():
            at_work[0].between_frames(functools.partial(_use, members))
            self.__changed()

    def __say(self, text: str) -> None:
        self.text = text
        self.notify_property_changed("text")


def _use(members: list[int], predictor: live.Predictor) -> None:
    if isinstance(predictor, remote.RemoteEnsemble):
        predictor.use(members)
