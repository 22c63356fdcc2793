"""What the Eject panel says. No Swift here."""

from __future__ import annotations

import dataclasses

from nion.utils import Observable

from stem_ae.manipulate import Attempt, Outcome, Verdict

GOOD, WAITING, BAD, OFF = "#1A8F3C", "#B26A00", "#C62828", "#707070"


_ROW_COLORS = {
    "waiting": OFF, "aiming": WAITING, "exposing": BAD, "verifying": WAITING, "done": GOOD, "failed": BAD,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Texts:
    """What the panel says."""

    status: str = "No targets"
    status_color: str = OFF
    message: str = ""
    """What is wrong or was done, and what to do about it."""
    targets: str = ""
    estimate: str = ""
    warning: str = ""
    """What to consider before arming."""
    armed: str = "Not armed"
    armed_color: str = OFF
    dose: str = ""
    site: str = ""


class TargetRow(Observable.Observable):
    """One target as the panel lists it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.__number = number
        self.text = self.state = self.color = ""

    def update(self, species: str, state: str, detail: str) -> None:
        """Say how it is."""
        new = (f"{self.__number}   {species}", f"{state}{': ' + detail if detail else ''}", _ROW_COLORS[state])
        for name, value in zip(("text", "state", "color"), new, strict=True):
            if value != getattr(self, name):
                setattr(self, name, value)
                self.notify_property_changed(name)


def state_after(attempt: Attempt) -> tuple[str, str]:
    """Return a target's state after an attempt, and what there is to say."""
    if attempt.verdict is Verdict.ONE:
        others = len(attempt.bystanders)
        return "done", f"{1e3 * attempt.exposure_s:.0f} ms" + (f", {others} beside" if others else "")
    if attempt.outcome is Outcome.STOPPED:
        return "waiting", ""
    why = str(attempt.outcome) if attempt.verdict in (Verdict.NONE, Verdict.UNCLEAR) else str(attempt.verdict)
    return "failed", why
