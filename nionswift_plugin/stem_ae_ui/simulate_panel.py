"""The Simulate panel: from atoms in the image to a calculation, with a picture of what will be calculated."""

from __future__ import annotations

import gettext
import typing

from nion.swift import DocumentController, Panel
from nion.ui import Declarative

from . import keeping
from .atoms_panel import AtomsPanel
from .panel_frame import FramedWidget, frame, note, status_lines
from .parts import (
    CAREFUL,
    INK,
    QUIET,
    CallConverter,
    TextConverter,
    combo,
    field,
    help_button,
    row,
    show_help,
    unit,
)
from .simulate_model import PICTURE, SimulateModel
from .simulate_settings import REGIONS, SITES, TASKS

_ = gettext.gettext
u = Declarative.DeclarativeUI()


class SimulateHandler(Declarative.Handler):
    """The view on a :class:`SimulateModel`."""

    def __init__(self, window: DocumentController.DocumentController, model: SimulateModel) -> None:
        super().__init__()
        self.__window = window
        self.model = model
        for name in ("subject", "structure", "cost"):
            setattr(self, f"{name}_text", TextConverter(f"{{0.{name}}}"))
        self.detail_text = CallConverter(lambda texts: "\n".join(filter(None, [texts.message, texts.warning])))
        self.detail_color = CallConverter(lambda texts: CAREFUL if texts.warning and not texts.message else INK)
        self.export_text = CallConverter(lambda needs: _("Write input files") if needs else _("Submit"))
        self.ui_view = frame(
            self.__buttons_view(),
            [
                self.__structure_view(),
                self.__preview_view(),
                u.create_divider(orientation="horizontal"),
                self.__task_view(),
                u.create_divider(orientation="horizontal"),
                self.__destination_view(),
            ],
            status_lines(
                "@binding(model.texts, converter=cost_text)",
                "@binding(model.texts, converter=detail_text)",
                detail_color="@binding(model.texts, converter=detail_color)",
            ),
        )

    def close(self) -> None:
        """Close the model with the panel."""
        self.model.close()
        super().close()

    # --- the parts, top to bottom -----------------------------------------------------------------------------------

    def __buttons_view(self) -> Declarative.UIDescription:
        return u.create_row(
            u.create_push_button(
                text=_("Rectangle"),
                on_clicked="rectangle_clicked",
                name="rectangle_button",
                width=84,
                tool_tip=_("Draw a rectangle about the chosen defect, or else on the middle of the image; move it"),
            ),
            u.create_push_button(
                text=_("Preview"),
                on_clicked="preview_clicked",
                name="preview_button",
                width=76,
                tool_tip=_("Build the structure of the newest atoms, or of the snapshot in the chosen display"),
            ),
            u.create_push_button(
                text="@binding(model.needs_folder, converter=export_text)",
                on_clicked="export_clicked",
                name="export_button",
                width=118,
                tool_tip=_("Submit what the preview shows, or write it as input files for an engine elsewhere"),
            ),
            u.create_stretch(),
            help_button(),
            spacing=6,
        )

    def __structure_view(self) -> Declarative.UIDescription:
        return u.create_column(
            row(
                _("Region"),
                combo("region", [_(name) for name in REGIONS]),
                stretch=False,
                tool_tip=_("Atoms in the rectangle, with those that complete its rings"),
            ),
            row(
                _("Cell"),
                combo("cell", [_("patch in vacuum"), _("periodic supercell")]),
                field("vacuum", 40),
                unit(_("Å vacuum")),
                stretch=False,
            ),
            row(
                _("Scale"),
                combo("calibration", [_("of the lattice"), _("and distortion"), _("of the image")]),
                u.create_check_box(text=_("H on edges"), checked="@binding(model.hydrogen)"),
                stretch=False,
                tool_tip=_("Correct the image's scale, or its distortion too, against the known lattice constant"),
            ),
            row(
                _("Adsorb"),
                field("adsorb", 64, placeholder_text=_("nothing")),
                unit(_("on")),
                combo("site", [_(name) for name in SITES]),
                stretch=False,
                tool_tip=_(
                    "An element, or CH, CH2 or CH3, above the sheet: nearest to a point that is drawn on the image, or "
                    "else to the middle of the region"
                ),
            ),
            spacing=4,
        )

    def __preview_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_row(
                u.create_image(
                    image="@binding(model.picture)", name="picture", width=PICTURE[1], height=PICTURE[0]
                ),
                u.create_stretch(),
            ),
            note(_("red crosses: held fixed · yellow: 95 % of the positions, × 5"), 2, color=QUIET),
            note("@binding(model.texts, converter=subject_text)", 2, color=QUIET, name="subject_label"),
            note("@binding(model.texts, converter=structure_text)", 3, name="structure_label"),
            spacing=4,
        )

    def __task_view(self) -> Declarative.UIDescription:
        dynamics = "@binding(model.has_dynamics)"
        return u.create_column(
            row(_("Task"), combo("task", [_(name) for name in TASKS]), stretch=False),
            row(
                _("Engine"),
                u.create_combo_box(
                    items_ref="@binding(model.engine_names)",
                    current_index="@binding(model.engine_index)",
                    name="engine_combo",
                ),
                stretch=False,
            ),
            row(
                _("Held fixed"),
                combo("fixed", [_("nothing"), _("perimeter"), _("hydrogen"), _("x and y")]),
                stretch=False,
            ),
            row(
                _("Forces"),
                unit(_("below")),
                field("fmax", enabled="@binding(model.has_relaxation)"),
                unit("eV/Å"),
                u.create_check_box(
                    text=_("the cell too"), checked="@binding(model.relax_cell)", enabled="@binding(model.has_cell)"
                ),
            ),
            row(
                _("Dynamics"),
                field("temperatures", 76, enabled=dynamics),
                u.create_label(text="K,", text_alignment_vertical="vcenter"),
                field("steps", 56, enabled=dynamics),
                unit(_("steps of 1 fs")),
                tool_tip=_("Several temperatures with commas between them: one job each"),
            ),
            row(
                _("Variants"),
                field("variants", 40),
                unit(_("more, within the atoms' errors")),
                tool_tip=_("Other structures that the image allows: what differs between their results is not certain"),
            ),
            spacing=4,
        )

    def __destination_view(self) -> Declarative.UIDescription:
        return u.create_column(
            row(
                _("Export as"),
                u.create_combo_box(
                    items_ref="@binding(model.destination_names)",
                    current_index="@binding(model.destination_index)",
                    name="destination_combo",
                ),
                stretch=False,
            ),
            u.create_row(
                unit(_("Pseudopotentials")),
                field(
                    "pseudopotentials",
                    0,
                    placeholder_text=_("folder"),
                    tool_tip=_("README.txt in the input folder says what it has to hold"),
                ),
                visible="@binding(model.needs_folder)",
                spacing=6,
            ),
            spacing=4,
        )

    # --- what the widgets do ----------------------------------------------------------------------------------------

    def rectangle_clicked(self, widget: Declarative.UIWidget) -> None:
        """Draw a rectangle on the image."""
        self.model.add_rectangle()

    def preview_clicked(self, widget: Declarative.UIWidget) -> None:
        """Show the structure of the newest atoms."""
        self.model.refresh()

    def help_clicked(self, widget: Declarative.UIWidget) -> None:
        """Explain the panel."""
        show_help(self.__window, _("Simulate: help"), "simulate.md")

    def export_clicked(self, widget: Declarative.UIWidget) -> None:
        """Submit, or ask for the folder and write."""
        folder = ""
        if self.model.needs_folder:
            folder, _directory = self.__window.ui.get_existing_directory_dialog(_("Write input files into"), "")
        self.model.export(folder)


class SimulatePanel(Panel.Panel):
    """The panel that Swift puts into its dock."""

    panel_id = "stem-ae-simulate-panel"
    title = _("Simulate")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        panel_id: str,
        properties: typing.Mapping[str, typing.Any],
    ) -> None:
        super().__init__(window, panel_id, self.title)
        self.__window = window
        self.model = SimulateModel(window, self.__newest_atoms, self.__chosen_defect)
        self.handler = SimulateHandler(window, self.model)
        self.widget = FramedWidget(window, self.handler)

    def size_changed(self, width: int, height: int) -> None:
        """Get ready when the panel is first seen, not when Swift starts."""
        self.model.start()

    def __newest_atoms(self) -> keeping.Snapshot | None:
        atoms = self.__atoms_panel()
        return atoms.model.newest if atoms else None

    def __chosen_defect(self) -> tuple[float, float] | None:
        atoms = self.__atoms_panel()
        defect = atoms.model.chosen_defect if atoms else None
        return defect.position if defect else None

    def __atoms_panel(self) -> AtomsPanel | None:
        assert self.__window.workspace_controller
        panels = self.__window.workspace_controller.dock_panels
        return next((panel for panel in panels if isinstance(panel, AtomsPanel)), None)
