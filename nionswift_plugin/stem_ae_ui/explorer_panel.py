"""The Explorer panel: choose what to look for, and let the microscope decide where."""

from __future__ import annotations

import gettext
import typing

from nion.swift import DocumentController, Panel
from nion.ui import Declarative

from .beam_line import BEAM_VIEWS, BeamLineHandler
from .explorer_model import ExplorerModel, OtherProperty
from .panel_frame import FramedWidget, frame, note, status_lines, wrap_tips
from .parts import (
    LABEL_WIDTH,
    QUIET,
    CallConverter,
    IfConverter,
    TextConverter,
    combo,
    field,
    fine_print,
    help_button,
    row,
    show_help,
    unit,
)

_ = gettext.gettext
u = Declarative.DeclarativeUI()

CAMERA_NAMES = ("EELS", "diffraction")
SURROGATE_NAMES = ("deep kernel", "descriptors", "position only", "automatic")
ACQUISITION_NAMES = (
    "expected improvement", "upper confidence bound", "probability of improvement", "largest uncertainty",
    "Thompson sampling", "novelty",
)  # fmt: skip


def _button(text: str, name: str, tool_tip: str, enabled: str = "is_idle") -> Declarative.UIDescription:
    return u.create_push_button(
        text=text, on_clicked=f"{name}_clicked", name=f"{name}_button", tool_tip=tool_tip,
        enabled=f"@binding(model.is_running, converter={enabled})", width=70,
    )  # fmt: skip


class OtherHandler(Declarative.Handler):
    """The view on a property beside the first one."""

    def __init__(self, item: OtherProperty, model: ExplorerModel) -> None:
        super().__init__()
        self.item, self.__model = item, model
        self.ui_view = u.create_column(
            row(
                _("And also"),
                u.create_combo_box(
                    items_ref="@binding(item.names)", current_index="@binding(item.name_index)", name="other_combo"
                ),
                unit(_("weight")),
                u.create_line_edit(text="@binding(item.weight)", width=36, name="other_weight_edit"),
                stretch=False, tool_tip=_(
                    "Another property of the same measurements, which gets a map of its own. With a weight it is "
                    "looked for as well: all count in standard deviations; below zero its low values are looked for."
                ),
            ),
            row(
                "", u.create_line_edit(text="@binding(item.words)", name="other_words_edit"),
                u.create_push_button(
                    text="✕", width=28, on_clicked="remove_clicked", name="other_remove_button",
                    tool_tip=_("Look at it no more; its map stays"),
                ),
                stretch=False, tool_tip=_("Bands as 284-320 (eV), angles in mrad, or an expression"),
            ),
            spacing=4,
        )  # fmt: skip
        wrap_tips(self.ui_view)

    def remove_clicked(self, widget: Declarative.UIWidget) -> None:
        """Look at it no more."""
        self.__model.remove_property(self.item)


class ExplorerHandler(Declarative.Handler):
    """The view on an :class:`ExplorerModel`."""

    def __init__(self, window: DocumentController.DocumentController, model: ExplorerModel) -> None:
        super().__init__()
        self.__window = window
        self.model = model
        for name in ("status", "status_color", "value", "dose"):
            setattr(self, f"{name}_text", TextConverter(f"{{0.{name}}}"))
        self.detail_text = CallConverter(lambda texts: "\n".join(filter(None, [texts.message, texts.progress])))
        self.is_idle = IfConverter(lambda running: not running)
        self.is_busy = IfConverter(bool)
        self.pause_text = IfConverter(bool, _("Resume"), _("Pause"))
        divider = u.create_divider(orientation="horizontal")
        self.ui_view = frame(
            u.create_column(self.__buttons_view(), u.create_component_instance("beam_alarm")),
            [
                self.__prepare_view(),
                self.__property_view(),
                divider,
                self.__decision_view(),
                divider,
                self.__folder_view(),
            ],
            status_lines(
                "@binding(model.texts, converter=status_text)",
                "@binding(model.texts, converter=detail_text)",
                status_color="@binding(model.texts, converter=status_color_text)",
            ),
        )

    def close(self) -> None:
        """Close the model with the panel."""
        self.model.close()
        super().close()

    def create_handler(
        self, component_id: str, container: typing.Any = None, item: typing.Any = None, **kwargs: typing.Any
    ) -> Declarative.HandlerLike | None:
        """Return the view of one property beside the first, or the alarm."""
        if component_id in BEAM_VIEWS:
            return BeamLineHandler(self.__window, component_id)
        return OtherHandler(item, self.model) if component_id == "other" else None

    # --- the parts, top to bottom -----------------------------------------------------------------------------------

    def __buttons_view(self) -> Declarative.UIDescription:
        return u.create_row(
            _button(_("Survey"), "survey", _("Scan one image as the scan is set, and mark the region to explore")),
            _button(_("Start"), "start", _("Explore the region. The run controls the scan until it ends.")),
            u.create_push_button(
                text="@binding(model.is_paused, converter=pause_text)", on_clicked="pause_clicked", width=70,
                name="pause_button", enabled="@binding(model.is_running, converter=is_busy)",
                tool_tip=_("Blank the beam and wait"),
            ),
            _button(_("Stop"), "stop", _("Blank the beam at once and end. What was measured stays."), "is_busy"),
            u.create_stretch(),
            help_button(),
            spacing=6,
        )  # fmt: skip

    def __prepare_view(self) -> Declarative.UIDescription:
        return u.create_row(
            _button(_("Focus"), "tune", _(
                "Find defocus and astigmatism by Bayesian optimisation of the sharpness of 20 Å images in the middle "
                "of the scan; some 45 images. Stop sets them back."
            )),
            _button(_("Preview"), "preview", _("Measure one point in the middle of the region")),
            u.create_stretch(),
            u.create_check_box(
                text=_("Click to measure"), checked="@binding(model.is_clicking)", name="click_check_box",
                on_checked_changed="clicking_changed", tool_tip=_("A point clicked on the survey is measured next"),
            ),
            spacing=8,
        )  # fmt: skip

    def __property_view(self) -> Declarative.UIDescription:
        names = u.create_combo_box(
            items_ref="@binding(model.property_names)", current_index="@binding(model.property_index)",
            name="property_combo",
        )  # fmt: skip
        return u.create_column(
            row(
                _("Measure"), combo("camera", CAMERA_NAMES), field("exposure_ms"), unit("ms"),
                stretch=False, tool_tip=_("Camera and exposure of each point"),
            ),
            row(
                _("Look for"), names, stretch=False, tool_tip=_(
                    "The one number that is made of each spectrum or pattern. It can be changed at any time: what was "
                    "measured is kept and valued anew."
                ),
            ),
            row(
                "", u.create_line_edit(text="@binding(model.property_words)", name="property_words_edit"),
                stretch=False, tool_tip=_("Bands as 284-320 (eV), angles in mrad, or an expression"),
            ),
            u.create_column(items="model.others.items", item_component_id="other", spacing=4),
            u.create_row(
                u.create_spacing(LABEL_WIDTH + 6),
                u.create_push_button(
                    text=_("Add property"), on_clicked="add_clicked", name="add_button", width=110,
                    tool_tip=_("It gets its own map; with a weight it is part of the search"),
                ),
                u.create_stretch(),
            ),
            fine_print("value", 2),
            spacing=4,
        )  # fmt: skip

    def __decision_view(self) -> Declarative.UIDescription:
        return u.create_column(
            row(_("Predict by"), combo("surrogate", SURROGATE_NAMES), field("patch", 36), unit(_("px patches")),
                stretch=False, tool_tip=_("Surrogate model: predicts the property from the image around a point")),
            row(
                _("Prefer"), combo("acquisition", ACQUISITION_NAMES), stretch=False,
                tool_tip=_("Acquisition function: ranks the points to measure"),
            ),
            row("", unit(_("aiming at the top")), field("feature", 36), unit(_("% of the region")), tool_tip=_(
                "Improvement counts from the value that so many per cent of the region are expected to reach"
            )),
            row(_("Points"), field("points"), unit(_("in batches of")), field("batch", 36),
                tool_tip=_("Each batch is decided while the one before is measured")),
            row("", unit(_("one candidate every")), field("step", 36), unit("px"),
                tool_tip=_("Only places on this grid are measured")),
            row(_("Dose"), field("current_pa"), unit("pA"), tool_tip=_("Beam current, to count the electrons")),
            row("", unit(_("at most")), field("dose_budget", placeholder_text="∞"), unit(_("million e⁻")),
                tool_tip=_("The run ends before the points exceed this dose")),
            fine_print("dose", 2),
            row(_("Spacing"), unit(_("at least")), field("min_distance", 36), unit(_("Å between points")),
                tool_tip=_("No point is measured nearer than this to another one")),
            row(_("Travel"), unit(_("penalty")), field("travel", 36), tool_tip=_(
                "0.5: a point half as good as the best is measured first if it is near and the best is at the other end"
            )),
            row(_("Drift"), unit(_("repeat the survey every")), field("drift_every", 36), unit(_("points")),
                tool_tip=_("The points follow the drift that the new survey shows. 0: never")),
            spacing=4,
        )  # fmt: skip

    def __folder_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_row(
                u.create_label(text=_("Runs are written to:"), color=QUIET, text_alignment_vertical="vcenter"),
                u.create_stretch(),
                u.create_push_button(
                    text=_("Open folder"), on_clicked="open_folder_clicked", name="open_folder_button"
                ),
                u.create_push_button(text=_("Folder…"), on_clicked="folder_clicked", name="folder_button"),
                u.create_push_button(
                    text="✕", width=28, on_clicked="usual_folder_clicked", name="usual_folder_button",
                    enabled="@binding(model.folder, converter=is_busy)",
                    tool_tip=_("Write runs to the default folder again"),
                ),
            ),
            note("@binding(model.runs_folder)", color=QUIET, name="folder_label"),
            spacing=2,
        )

    # --- what the widgets do ----------------------------------------------------------------------------------------

    def survey_clicked(self, widget: Declarative.UIWidget) -> None:
        """Take a survey image."""
        self.model.survey()

    def preview_clicked(self, widget: Declarative.UIWidget) -> None:
        """Measure one point."""
        self.model.preview()

    def add_clicked(self, widget: Declarative.UIWidget) -> None:
        """Look at another property as well."""
        self.model.add_property()

    def tune_clicked(self, widget: Declarative.UIWidget) -> None:
        """Focus."""
        self.model.tune()

    def start_clicked(self, widget: Declarative.UIWidget) -> None:
        """Explore."""
        self.model.start()

    def pause_clicked(self, widget: Declarative.UIWidget) -> None:
        """Pause or go on."""
        self.model.pause()

    def stop_clicked(self, widget: Declarative.UIWidget) -> None:
        """Blank and end."""
        self.model.stop()

    def clicking_changed(self, widget: Declarative.UIWidget, checked: bool) -> None:
        """Let clicks force points."""
        self.model.set_clicking(checked)

    def folder_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose where runs are written to; cancelled, it stays as it is."""
        folder, _directory = self.__window.ui.get_existing_directory_dialog(_("Write runs to"), self.model.runs_folder)
        if folder:
            self.model.folder = folder

    def usual_folder_clicked(self, widget: Declarative.UIWidget) -> None:
        """Write runs to the default folder again."""
        self.model.folder = ""

    def open_folder_clicked(self, widget: Declarative.UIWidget) -> None:
        """Show the runs' folder in the system's file manager."""
        self.model.open_folder()

    def help_clicked(self, widget: Declarative.UIWidget) -> None:
        """Explain the panel."""
        show_help(self.__window, _("Explorer: help"), "explorer.md")


class ExplorerPanel(Panel.Panel):
    """The panel that Swift puts into its dock."""

    panel_id = "stem-ae-explorer-panel"
    title = _("Explorer")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        panel_id: str,
        properties: typing.Mapping[str, typing.Any],
    ) -> None:
        super().__init__(window, panel_id, self.title)
        self.model = ExplorerModel(window)
        self.handler = ExplorerHandler(window, self.model)
        self.widget = FramedWidget(window, self.handler)
