"""The Eject panel: choose atoms, arm, run, stop at the step."""

from __future__ import annotations

import gettext
import time
import typing

from nion.swift import DocumentController, Panel
from nion.ui import Declarative

from . import keeping
from .atoms_panel import AtomsPanel
from .beam_line import BEAM_VIEWS, Banner, BeamLineHandler, dress
from .beam_watch import STOP_KEY
from .ejection_choice import PICKS
from .ejection_intent import POLICIES
from .ejection_model import EjectionModel
from .ejection_pictures import PATCHES, TRACE
from .ejection_texts import WAITING, TargetRow, Texts
from .panel_frame import LINE, FramedWidget, frame, note, status_lines
from .parts import (
    QUIET,
    CallConverter,
    IfConverter,
    TextConverter,
    field,
    help_button,
    row,
    show_help,
    unit,
)  # fmt: skip
from .stop_key import StopKey

_ = gettext.gettext
u = Declarative.DeclarativeUI()

_LIST_HEIGHT, _STOP_HEIGHT = 120, 52
_TICK_S = 0.25


class TargetHandler(Declarative.Handler):
    """One target: number, class, state."""

    def __init__(self, item: TargetRow) -> None:
        super().__init__()
        self.item = item
        self.ui_view = u.create_row(
            note("@binding(item.text)", width=72),
            note("@binding(item.state)", color="@binding(item.color)", width=240),
            u.create_stretch(),
            spacing=8,
        )


class EjectionHandler(Declarative.Handler):
    """The view on an :class:`EjectionModel`."""

    def __init__(self, window: DocumentController.DocumentController, model: EjectionModel) -> None:
        super().__init__()
        self.__window = window
        self.model = model
        for name in Texts.__dataclass_fields__:
            setattr(self, f"{name}_text", TextConverter(f"{{0.{name}}}"))
        self.has_again = IfConverter(lambda texts: bool(texts.again))
        self.has_offer = IfConverter(lambda texts: bool(texts.offer))
        self.earlier_text = CallConverter(lambda texts: texts.offer or texts.again)
        self.choose_text = IfConverter(bool, _("Done choosing"), _("Choose on image"))
        self.pause_text = IfConverter(bool, _("Go on"), _("Pause"))
        self.ui_view = frame(
            self.__buttons_view(),
            [
                self.__targets_view(),
                u.create_divider(orientation="horizontal"),
                self.__parameters_view(),
                u.create_divider(orientation="horizontal"),
                self.__pictures_view(),
            ],
            status_lines(
                "@binding(model.texts, converter=status_text)", "@binding(model.texts, converter=message_text)",
                status_color="@binding(model.texts, converter=status_color_text)",
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Close the model with the panel: the beam is blanked if a run was under way."""
        self.model.close()
        super().close()

    def init_handler(self) -> None:
        """Make STOP red."""
        dress(self)

    def create_handler(
        self, component_id: str, container: typing.Any = None, item: typing.Any = None, **kwargs: typing.Any
    ) -> Declarative.HandlerLike | None:
        """Return the view of one target, or of the beam."""
        if component_id in BEAM_VIEWS:
            return BeamLineHandler(self.__window, component_id)
        return TargetHandler(item) if component_id == "target" else None

    # --- the parts, top to bottom -----------------------------------------------------------------------------------

    def __targets_view(self) -> Declarative.UIDescription:
        free = "@binding(model.can_choose)"
        return u.create_column(
            row(
                _("Targets"),
                u.create_combo_box(
                    items_ref="@binding(model.species_names)", current_index="@binding(model.species_index)",
                    enabled=free, name="species_combo",
                ),
                u.create_combo_box(
                    items=[_(name) for name in PICKS], current_index="@binding(model.pick_index)", enabled=free,
                    name="pick_combo",
                ),
                stretch=False, tool_tip=_("Which class, and how clicks on the image choose"),
            ),
            row(
                _("Every"),
                u.create_line_edit(
                    text="@binding(model.every)", width=36, name="every_edit",
                    tool_tip=_("Every n-th of a row; n x m lattice steps of a pattern, such as 3 x 2"),
                ),
                u.create_push_button(
                    text="@binding(model.is_choosing, converter=choose_text)", on_clicked="choose_clicked",
                    enabled=free, name="choose_button", width=118,
                    tool_tip=_("Clicks on the image of the Atoms panel choose targets until you are done"),
                ),
                u.create_push_button(
                    text=_("All"), on_clicked="all_clicked", enabled=free, name="all_button", width=40
                ),
                u.create_push_button(
                    text=_("List…"), on_clicked="list_clicked", enabled=free, name="list_button", width=46,
                    tool_tip=_("A CSV file with x and y in Å of the image, one target per line"),
                ),
            ),
            u.create_row(
                note("@binding(model.texts, converter=targets_text)", font="bold 13px", name="targets_label"),
                u.create_push_button(
                    text=_("Clear"), on_clicked="clear_clicked", enabled=free, name="clear_button", width=52
                ),
                spacing=8,
            ),
            note("@binding(model.texts, converter=earlier_text)", 2, color=QUIET, name="earlier_label"),
            u.create_row(
                u.create_push_button(
                    text=_("Continue"), on_clicked="go_on_clicked", name="offer_button", width=74,
                    enabled="@binding(model.texts, converter=has_offer)",
                    tool_tip=_("Continue the last run, which was stopped or crashed; finished targets stay finished"),
                ),
                u.create_check_box(
                    text=_("Do them again"), checked="@binding(model.again)", name="again_box",
                    enabled="@binding(model.texts, converter=has_again)",
                    tool_tip=_("Run exposes targets that are finished as well: another atom leaves each"),
                ),
                u.create_stretch(),
                u.create_push_button(
                    text=_("Places are right"), on_clicked="confirm_clicked", name="confirm_button", width=108,
                    enabled="@binding(model.can_confirm)",
                    tool_tip=_("I have looked: the circles are on the atoms that I chose"),
                ),
                spacing=6,
            ),
            u.create_scroll_area(
                u.create_column(
                    u.create_column(items="model.rows.items", item_component_id="target", spacing=1), u.create_stretch()
                ),
                height=_LIST_HEIGHT,
            ),
            spacing=5,
        )  # fmt: skip

    def __parameters_view(self) -> Declarative.UIDescription:
        return u.create_column(
            row(
                _("Policy"),
                u.create_combo_box(
                    items=[_(name) for name in POLICIES], current_index="@binding(model.policy_index)",
                    enabled="@binding(model.can_choose)", name="policy_combo",
                ),
                stretch=False, tool_tip=_(
                    "One atom leaves each target. “Repeat until done” images again and tries again. “Bring "
                    "dopants” moves Si in graphene to the targets, site by site."
                ),
            ),
            row(
                _("Beam"),
                field(
                    "current", 52, placeholder_text=_("auto"),
                    tool_tip=_("Beam current; empty: as the instrument says"),
                ),
                unit(_("pA, at most")),
                field("timeout", 36, tool_tip=_("Longest exposure of one target")), unit(_("s on each")),
            ),
            row(
                _("At most"),
                field("cap", 52, tool_tip=_("Dose cap of the whole run, scans included")), unit(_("e⁻")),
                field("local", 52, tool_tip=_("Dose cap at any atom, targets included")), unit(_("e/Å² anywhere")),
            ),
            note(
                "@binding(model.texts, converter=estimate_text)", 3, color=QUIET, name="estimate_label",
                tool_tip=_("With the simulator's cross sections and a mean waiting time; real ones may differ"),
            ),
            note("@binding(model.texts, converter=warning_text)", 4, color=WAITING, name="warning_label"),
            u.create_row(
                u.create_progress_bar(
                    value="@binding(model.dose_percent)", minimum=0, maximum=100, width=120, name="dose_bar",
                ),
                note("@binding(model.texts, converter=dose_text)", color=QUIET, name="dose_label"),
                spacing=8,
            ),
            spacing=5,
        )  # fmt: skip

    def __buttons_view(self) -> Declarative.UIDescription:
        def button(name: str, text: str, width: int, tip: str, **options: typing.Any) -> Declarative.UIDescription:
            return u.create_push_button(
                text=text, on_clicked=f"{name}_clicked", name=f"{name}_button", tool_tip=tip, width=width, **options
            )

        running = "@binding(model.is_running)"
        stop = button("stop", f"STOP  {STOP_KEY}", 118, _(
            "Blank at once, end the run and disarm. The key works in every window of Swift."
        ), height=_STOP_HEIGHT)  # fmt: skip
        return u.create_column(
            u.create_row(
                u.create_column(
                    u.create_row(
                        button("arm", _("Arm"), 62, _("Allow exposures for ten minutes")),
                        button("run", _("Run"), 62, _("Eject: survey, aim, expose, verify, target by target")),
                        button(
                            "pause", "@binding(model.is_paused, converter=pause_text)", 62, _("Blank and wait"),
                            enabled=running,
                        ),
                        spacing=4,
                    ),
                    u.create_row(
                        button(
                            "rehearse", _("Rehearse"), 96,
                            _("The same plan on a simulated microscope with these atoms and today's parameters"),
                            enabled="@binding(model.can_choose)",
                        ),
                        u.create_stretch(),
                        help_button(),
                        spacing=4,
                    ),
                    spacing=4,
                ),
                u.create_stretch(),
                stop,
                spacing=8,
            ),
            u.create_row(
                u.create_component_instance("beam_line"),
                u.create_stretch(),
                u.create_label(
                    text="@binding(model.texts, converter=armed_text)", height=LINE, width=130,
                    color="@binding(model.texts, converter=armed_color_text)", font="bold 13px",
                    text_alignment_horizontal="right", name="armed_label",
                ),
            ),
            u.create_component_instance("beam_alarm"),
            spacing=4,
        )  # fmt: skip

    def __pictures_view(self) -> Declarative.UIDescription:
        def picture(name: str, size: tuple[int, int]) -> Declarative.UIDescription:
            image = u.create_image(image=f"@binding(model.{name})", name=name, width=size[1], height=size[0])
            return u.create_row(image, u.create_stretch())

        return u.create_column(
            picture("trace", TRACE),
            note("@binding(model.texts, converter=site_text)", 2, color=QUIET, name="site_label"),
            picture("patches", PATCHES),
            spacing=4,
        )

    # --- what the widgets do ----------------------------------------------------------------------------------------

    def choose_clicked(self, widget: Declarative.UIWidget) -> None:
        """Let clicks choose, or not any more."""
        self.model.choose(not self.model.is_choosing)

    def all_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose all of the class."""
        self.model.choose_all()

    def list_clicked(self, widget: Declarative.UIWidget) -> None:
        """Read a list."""
        paths, _filter, _directory = self.__window.ui.get_file_paths_dialog(
            _("List of targets"), "", "CSV (*.csv)", ""
        )
        for path in paths:
            self.model.read(path)

    def clear_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose none."""
        self.model.clear()

    def confirm_clicked(self, widget: Declarative.UIWidget) -> None:
        """Note that the user has confirmed that the targets are on the right atoms."""
        self.model.confirm()

    def go_on_clicked(self, widget: Declarative.UIWidget) -> None:
        """Continue the last run."""
        self.model.go_on()

    def arm_clicked(self, widget: Declarative.UIWidget) -> None:
        """Allow the beam."""
        self.model.arm()

    def run_clicked(self, widget: Declarative.UIWidget) -> None:
        """Eject."""
        self.model.run()

    def pause_clicked(self, widget: Declarative.UIWidget) -> None:
        """Pause, or go on."""
        self.model.pause()

    def stop_clicked(self, widget: Declarative.UIWidget) -> None:
        """Blank."""
        self.model.stop()

    def rehearse_clicked(self, widget: Declarative.UIWidget) -> None:
        """Try it on the simulator."""
        self.model.rehearse()

    def help_clicked(self, widget: Declarative.UIWidget) -> None:
        """Explain the panel."""
        show_help(self.__window, _("Eject: help"), "ejection.md")


class EjectionPanel(Panel.Panel):
    """The panel that Swift puts into its dock, and what goes with it in the same window: the banner and the key."""

    panel_id = "stem-ae-ejection-panel"
    title = _("Eject")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        panel_id: str,
        properties: typing.Mapping[str, typing.Any],
    ) -> None:
        super().__init__(window, panel_id, self.title)
        self.__window = window
        self.__ticked_at = 0.0
        self.model = EjectionModel(window, self.__newest_atoms)
        self.handler = EjectionHandler(window, self.model)
        self.widget = FramedWidget(window, self.handler)
        self.banner = Banner(window)
        self.__key = StopKey(window)

    def create_dock_widget(self, title: str, positions: typing.Sequence[str], position: str) -> None:
        """Make the dock; when it is hidden or closed, its run is stopped: its STOP goes with it."""
        super().create_dock_widget(title, positions, position)
        self.dock_widget.on_will_hide = self.__hidden
        self.dock_widget.on_will_close = self.__hidden

    def hide(self) -> None:
        """Hide it, which stops its run."""
        self.__hidden()
        super().hide()

    def close(self) -> None:
        """Close it with its window, which stops its run."""
        self.banner.close()
        super().close()

    def __hidden(self) -> None:
        self.model.leave(_("the Eject panel was hidden"))

    def periodic(self) -> None:
        """Follow the newest frame and count the arming down."""
        super().periodic()
        now = time.monotonic()
        if now - self.__ticked_at > _TICK_S:
            self.__ticked_at = now
            self.model.tick()
            self.banner.tick()
            self.__key.tick()

    def __newest_atoms(self) -> keeping.Snapshot | None:
        workspace = self.__window.workspace_controller
        panels = workspace.dock_panels if workspace else []
        atoms = next((panel for panel in panels if isinstance(panel, AtomsPanel)), None)
        return atoms.model.newest if atoms else None
