"""The beam's state in a line of every panel that unblanks; alarm and arming above the displays of every window.

The banner stands in Swift's own place for messages, above all displays: it is seen whatever is docked, scrolled or
hidden.
"""

from __future__ import annotations

import gettext
import typing

from nion.swift import DocumentController
from nion.ui import Declarative, UserInterface
from nion.utils import Observable

from stem_ae.words import clock

from .beam_watch import STOP_KEY, WATCH
from .panel_frame import LINE
from .parts import CAREFUL, QUIET

_ = gettext.gettext
u = Declarative.DeclarativeUI()

RED = "#C62828"
STOP_STYLE = (
    "QPushButton { background-color: #C62828; color: white; font-weight: bold; font-size: 15px; border: 1px solid "
    "#7F0000; border-radius: 4px; } QPushButton:pressed { background-color: #8E0000; } "
    "QPushButton:hover { background-color: #D84343; }"
)
"""Large and red, in light and in dark windows."""
_SHOUT_STYLE = "background-color: #C62828; color: white; font-weight: bold; font-size: 13px; padding: 4px;"
_HEIGHT = 30
_WORDS = {
    "blanked": (_("Beam blanked"), QUIET), "on": (_("BEAM ON"), RED), "unknown": (_("Beam: not known"), CAREFUL),
}  # fmt: skip


class BeamLine(Observable.Observable):
    """The state of the beam for one window. For the user interface thread.

    Parameters
    ----------
    window : DocumentController
        Where it is shown.
    """

    def __init__(self, window: DocumentController.DocumentController) -> None:
        super().__init__()
        self.__window = window
        self.__task = f"stem_ae beam line {id(self)}"
        self.__closed = False
        self.words, self.color = _("No microscope"), QUIET
        self.alarm = ""
        """The alarm's text."""
        self.refusal = ""
        """Why the alarm could not be cleared."""
        self.armed = ""
        """What is armed, and for how long."""
        self.__remove = WATCH.listen(self.__changed)
        self.refresh()

    def close(self) -> None:
        """Stop listening."""
        self.__closed = True
        self.__remove()
        self.__window.clear_task(self.__task)

    def __changed(self) -> None:
        if not self.__closed:
            self.__window.add_task(self.__task, self.refresh)

    def refresh(self) -> None:
        """Show the current state."""
        interlock = WATCH.interlock
        words, color = _WORDS[interlock.state] if interlock else (_("No microscope"), QUIET)
        alarm = WATCH.alarm
        self.__put(words=words, color=color, alarm=alarm, refusal=WATCH.refusal if alarm else "", armed=self.__armed())

    @staticmethod
    def __armed() -> str:
        said = []
        for who in WATCH.armed:
            left = who.armed_left_s
            said.append((f"{clock(left)} · " if left else "") + who.doing)
        return "ARMED " + " · ".join(said) if said else ""

    def __put(self, **values: str) -> None:
        for name, value in values.items():
            if value != getattr(self, name):
                setattr(self, name, value)
                self.notify_property_changed(name)
                self.notify_property_changed(f"has_{name}")

    @property
    def has_alarm(self) -> bool:
        """Whether there is an alarm."""
        return bool(self.alarm)

    @property
    def has_refusal(self) -> bool:
        """Whether the alarm was acknowledged too early."""
        return bool(self.refusal)

    @property
    def has_armed(self) -> bool:
        """Whether something is armed."""
        return bool(self.armed)


def shout(text: str, name: str, **options: typing.Any) -> Declarative.UIDescription:
    """Return words in white on red; :func:`dress` makes them so."""
    return u.create_label(text=text, name=name, word_wrap=True, text_alignment_vertical="vcenter", **options)


def dress(handler: typing.Any) -> None:
    """Colour the alarm and the STOP button, once the widgets exist."""
    for name, style in (("stop_button", STOP_STYLE), ("alarm_label", _SHOUT_STYLE), ("armed_banner", _SHOUT_STYLE)):
        if (widget := getattr(handler, name, None)) is not None:
            typing.cast(UserInterface.Widget, widget).set_property("stylesheet", style)


def alarm_view() -> Declarative.UIDescription:
    """Return the alarm with its button; the handler has ``beam`` and :func:`acknowledge`'s ``acknowledge_clicked``."""
    return u.create_column(
        shout("@binding(beam.alarm)", "alarm_label"),
        u.create_row(
            u.create_label(
                text="@binding(beam.refusal)", visible="@binding(beam.has_refusal)", color=RED, word_wrap=True,
                name="refusal_label",
            ),
            u.create_stretch(),
            u.create_push_button(
                text=_("Acknowledge"), on_clicked="acknowledge_clicked", name="acknowledge_button",
                tool_tip=_("I have blanked the beam: ends the alarm if the beam now reads as blanked"),
            ),
            spacing=8,
        ),
        visible="@binding(beam.has_alarm)",
        spacing=4,
    )  # fmt: skip


BEAM_VIEWS = ("beam_line", "beam_alarm")
"""Components of panels that unblank: the beam as read, and the alarm as long as there is one."""


class BeamLineHandler(Declarative.Handler):
    """What a panel shows of the beam: one of :data:`BEAM_VIEWS`."""

    def __init__(self, window: DocumentController.DocumentController, view: str) -> None:
        super().__init__()
        self.beam = BeamLine(window)
        self.ui_view = alarm_view() if view == "beam_alarm" else u.create_label(
            text="@binding(beam.words)", color="@binding(beam.color)", font="bold 13px", height=LINE, width=150,
            name="beam_label", tool_tip=_("As read from the microscope, not as commanded"),
        )  # fmt: skip

    def init_handler(self) -> None:
        """Colour the alarm."""
        dress(self)

    def close(self) -> None:
        """Stop listening."""
        self.beam.close()
        super().close()

    def acknowledge_clicked(self, widget: Declarative.UIWidget) -> None:
        """Acknowledge the alarm."""
        WATCH.acknowledge()


class BannerHandler(Declarative.Handler):
    """Alarm, arming and STOP, across a window."""

    def __init__(self, beam: BeamLine) -> None:
        super().__init__()
        self.beam = beam
        self.ui_view = u.create_column(
            alarm_view(),
            u.create_row(
                shout("@binding(beam.armed)", "armed_banner", size_policy_horizontal="expanding", height=_HEIGHT),
                u.create_push_button(
                    text=_("STOP") + f"  {STOP_KEY}", on_clicked="stop_clicked", name="stop_button", width=110,
                    height=_HEIGHT, tool_tip=_("Blank at once and end what is under way"),
                ),
                visible="@binding(beam.has_armed)",
                spacing=4,
            ),
            spacing=2,
        )  # fmt: skip

    def stop_clicked(self, widget: Declarative.UIWidget) -> None:
        """Stop everybody."""
        WATCH.stop()

    def acknowledge_clicked(self, widget: Declarative.UIWidget) -> None:
        """Acknowledge the alarm."""
        WATCH.acknowledge()


class Banner:
    """Alarm and arming above all displays of a window.

    Parameters
    ----------
    window : DocumentController
        The window, which may still be being made.
    """

    def __init__(self, window: DocumentController.DocumentController) -> None:
        self.__window = window
        self.__is_placed = False
        self.beam = BeamLine(window)
        self.handler = BannerHandler(self.beam)

    def tick(self) -> None:
        """Bring the countdown up to date; the first time, put the banner in its place."""
        workspace = self.__window.workspace_controller
        if not self.__is_placed and workspace is not None:
            self.__is_placed = True
            workspace.message_column.add(self.__made())
        self.beam.refresh()

    def __made(self) -> UserInterface.Widget:
        """Return the widget; it needs little room, where a declarative widget would take half the window."""
        finishes: list[typing.Callable[[], None]] = []
        widget = Declarative.construct(self.__window.ui, self.__window, self.handler.ui_view, self.handler, finishes)
        assert widget
        for finish in finishes:
            finish()
        dress(self.handler)
        return widget

    def close(self) -> None:
        """Stop listening; the window closes the widget."""
        self.beam.close()
