"""The simulator's panel: which specimen, what it suffers, how the beam is set."""

from __future__ import annotations

import asyncio
import dataclasses
import gettext
import typing

from nion.swift import DocumentController, Panel
from nion.ui import Declarative
from nion.utils import Converter

from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
from nionswift_plugin.stem_ae_ui import panel_frame
from stem_ae.imaging import catalogue

_ = gettext.gettext

_REFRESH_S = 0.25
_SHOWN = (
    "specimen_index", "drift_x", "drift_y", "jitter", "contamination", "damage", "current_pa", "defocus_nm",
    "energy_kv", "blanked", "status",
)  # fmt: skip


_LABELS = {
    "drift_x": _("Drift right (Å/min)"), "drift_y": _("Drift down (Å/min)"), "jitter": _("Line jitter (Å)"),
    "contamination": _("Contamination (%)"), "current_pa": _("Beam current (pA)"), "energy_kv": _("Beam energy (kV)"),
    "defocus_nm": _("Defocus (nm)"),
}  # fmt: skip


class Handler(Declarative.Handler):
    """Shows and sets the simulation; every change acts on the next frame."""

    def __init__(self, simulator: AtomicMicroscope, event_loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._simulator = simulator
        self._microscope = simulator.microscope
        self._event_loop = event_loop
        self.specimen_names = catalogue.names()
        self.number = Converter.FloatToStringConverter("{:.4g}")
        self.ui_view = _view(self.specimen_names)
        self._complaint = ""
        self._last: dict[str, typing.Any] = {}
        self._refresh()

    def close(self) -> None:
        """Let go of the simulator."""
        self._timer.cancel()
        super().close()

    @property
    def specimen_index(self) -> int:
        """Which specimen of the catalogue is in."""
        name = self._simulator.specimen_name
        return self.specimen_names.index(name) if name in self.specimen_names else -1

    @specimen_index.setter
    def specimen_index(self, value: int) -> None:
        if value >= 0 and value != self.specimen_index:
            self._simulator.choose_specimen(self.specimen_names[value])

    def on_renew(self, widget: Declarative.UIWidget) -> None:
        """Load the same specimen again, undamaged."""
        if self._simulator.specimen_name:
            self._simulator.choose_specimen(self._simulator.specimen_name)

    # Conditions and controls; text that is not a possible number changes nothing and is reported.

    @property
    def drift_x(self) -> float:
        """Drift to the right, Å/min."""
        return self._microscope.conditions.drift[0] * 60

    @drift_x.setter
    def drift_x(self, value: float | None) -> None:
        if self._is_possible(value, "drift_x", -1e4, 1e4):
            self._set_condition(drift=(value / 60, self._microscope.conditions.drift[1]))

    @property
    def drift_y(self) -> float:
        """Drift downwards, Å/min."""
        return self._microscope.conditions.drift[1] * 60

    @drift_y.setter
    def drift_y(self, value: float | None) -> None:
        if self._is_possible(value, "drift_y", -1e4, 1e4):
            self._set_condition(drift=(self._microscope.conditions.drift[0], value / 60))

    @property
    def jitter(self) -> float:
        """RMS displacement of scan lines, Å."""
        return self._microscope.conditions.jitter

    @jitter.setter
    def jitter(self, value: float | None) -> None:
        if self._is_possible(value, "jitter", 0, 10):
            self._set_condition(jitter=value)

    @property
    def contamination(self) -> float:
        """Covered area, percent."""
        return self._microscope.conditions.contamination * 100

    @contamination.setter
    def contamination(self, value: float | None) -> None:
        if self._is_possible(value, "contamination", 0, 100):
            self._set_condition(contamination=value / 100)

    @property
    def damage(self) -> bool:
        """Whether the beam ejects atoms."""
        return self._microscope.conditions.damage

    @damage.setter
    def damage(self, value: bool) -> None:
        self._set_condition(damage=value)

    @property
    def current_pa(self) -> float:
        """Beam current, pA."""
        return self._simulator.instrument.GetVal("BeamCurrent") * 1e12

    @current_pa.setter
    def current_pa(self, value: float | None) -> None:
        if self._is_possible(value, "current_pa", 0, 1e5):
            self._simulator.instrument.SetVal("BeamCurrent", value * 1e-12)

    @property
    def defocus_nm(self) -> float:
        """Defocus, nm."""
        return self._simulator.instrument.GetVal("C10") * 1e9

    @defocus_nm.setter
    def defocus_nm(self, value: float | None) -> None:
        if self._is_possible(value, "defocus_nm", -1e4, 1e4):
            self._simulator.instrument.SetVal("C10", value * 1e-9)

    @property
    def energy_kv(self) -> float:
        """Beam energy, kV."""
        return self._simulator.instrument.GetVal("EHT") * 1e-3

    @energy_kv.setter
    def energy_kv(self, value: float | None) -> None:
        if self._is_possible(value, "energy_kv", 10, 300):
            self._simulator.instrument.SetVal("EHT", value * 1e3)

    def _is_possible(self, value: float | None, name: str, least: float, most: float) -> typing.TypeGuard[float]:
        """Return whether a value can be set. If not, say so, and show the current one."""
        is_possible = value is not None and least <= value <= most
        self._complaint = "" if is_possible else f"{_LABELS[name]}: type a number from {least:g} to {most:g}."
        if not is_possible:
            self.property_changed_event.fire(name)
        self.property_changed_event.fire("complaint")
        return is_possible

    @property
    def complaint(self) -> str:
        """What is wrong with the number that was typed last."""
        return self._complaint

    @property
    def blanked(self) -> bool:
        """Whether the beam is blanked."""
        return self._simulator.instrument.is_blanked

    @blanked.setter
    def blanked(self, value: bool) -> None:
        self._simulator.instrument.controls.is_blanked = value

    @property
    def status(self) -> str:
        """What the beam has done so far."""
        ejections = self._microscope.ejections
        last = f" ({ejections[-1].symbol})" if ejections else ""
        return _("Ejected atoms: ") + str(len(ejections)) + last

    def _set_condition(self, **values: typing.Any) -> None:
        self._microscope.conditions = dataclasses.replace(self._microscope.conditions, **values)

    def _refresh(self) -> None:
        """Show what has changed, whoever changed it: a script, a plan, the beam."""
        self._microscope.advance()
        now = {name: getattr(self, name) for name in _SHOWN}
        for name, value in now.items():
            if self._last.get(name) != value:
                self.property_changed_event.fire(name)
        self._last = now
        self._timer = self._event_loop.call_later(_REFRESH_S, self._refresh)


def _view(specimens: list[str]) -> Declarative.UIDescription:
    u = Declarative.DeclarativeUI()

    def field(name: str) -> Declarative.UIDescription:
        text = f"@binding({name}, converter=number)"
        return u.create_row(
            u.create_label(text=_LABELS[name], width=160, text_alignment_vertical="vcenter"),
            u.create_line_edit(text=text, name=name + "_field", width=56),
            u.create_stretch(), spacing=8,
        )  # fmt: skip

    def check(label: str, name: str) -> Declarative.UIDescription:
        return u.create_row(
            u.create_check_box(text=label, checked=f"@binding({name})", name=name + "_check_box"), u.create_stretch()
        )

    header = u.create_row(
        u.create_combo_box(items=specimens, current_index="@binding(specimen_index)", name="specimen_combo_box"),
        u.create_push_button(
            text=_("Renew"), name="renew_button", on_clicked="on_renew", width=72,
            tool_tip=_("Load the same specimen again, undamaged"),
        ),
        spacing=8,
    )  # fmt: skip
    body = [
        *map(field, _LABELS),
        check(_("Beam ejects atoms"), "damage"),
        check(_("Beam blanked"), "blanked"),
    ]
    footer = u.create_column(
        panel_frame.note("@binding(status)"), panel_frame.note("@binding(complaint)", color="#B26A00")
    )
    return panel_frame.frame(header, body, footer)


class SimulatorPanel(Panel.Panel):
    """The panel that Swift docks."""

    def __init__(
        self, document_controller: DocumentController.DocumentController, panel_id: str,
        properties: typing.Mapping[str, typing.Any],
    ) -> None:  # fmt: skip
        super().__init__(document_controller, panel_id, _("Simulated microscope"))
        handler = Handler(properties["simulator"], document_controller.event_loop)
        self.widget = panel_frame.FramedWidget(document_controller, handler)

