"""The Atoms panel: rings on the atoms of a live scan or of any displayed image."""

from __future__ import annotations

import gettext
import typing

from nion.swift import DocumentController, Panel
from nion.ui import Declarative

from .atoms_model import AtomClass, AtomsModel
from .networks_model import Network
from .panel_frame import FramedWidget, frame, note, status_lines, wrap_tips
from .parts import (
    CAREFUL,
    INK,
    LABEL_WIDTH,
    QUIET,
    CallConverter,
    HundredthsConverter,
    IfConverter,
    TextConverter,
    fine_print,
    help_button,
    row,
    show_help,
)

_ = gettext.gettext
u = Declarative.DeclarativeUI()


class ClassHandler(Declarative.Handler):
    """One class: show, colour, name, count."""

    def __init__(self, item: AtomClass) -> None:
        super().__init__()
        self.item = item
        self.ui_view = u.create_row(
            u.create_check_box(checked="@binding(item.visible)", tool_tip=_("Draw the rings of this class")),
            {"type": "nionswift.color_chooser", "color": "@binding(item.color)"},
            u.create_label(text=item.name, font="bold 14px", width=44, text_alignment_vertical="vcenter"),
            u.create_stretch(),
            u.create_label(
                text="@binding(item.count)",
                font="bold 14px",
                width=80,
                text_alignment_horizontal="right",
                text_alignment_vertical="vcenter",
            ),
            spacing=8,
        )
        wrap_tips(self.ui_view)


class NetworkHandler(Declarative.Handler):
    """One network: whether it has a say, and what speaks for or against it."""

    def __init__(self, item: Network) -> None:
        super().__init__()
        self.item = item
        self.ui_view = u.create_row(
            u.create_check_box(text=item.title, checked="@binding(item.used)", tool_tip=_("Let it have a say")),
            note(item.reason, color=QUIET),
            spacing=8,
        )


class AtomsHandler(Declarative.Handler):
    """The view on an :class:`AtomsModel`."""

    def __init__(self, window: DocumentController.DocumentController, model: AtomsModel) -> None:
        super().__init__()
        self.__window = window
        self.model = model
        self.hundredths = HundredthsConverter()
        self.percent_text = TextConverter("{:.0%}")
        self.angstrom_text = TextConverter("{:.2f} Å")
        self.status_text = TextConverter("{0.status}")
        self.status_color = TextConverter("{0.status_color}")
        self.model_text = TextConverter("{0.model}")
        self.detail_text = CallConverter(lambda texts: "\n".join(filter(None, [texts.message, texts.hint])))
        self.detail_color = CallConverter(lambda texts: CAREFUL if texts.hint and not texts.message else INK)
        self.sampling_text = TextConverter("{0.sampling}")
        self.statistics_text = TextConverter("{0.statistics}")
        self.is_there = IfConverter(bool)
        self.start_text = IfConverter(bool, _("Stop"), _("Start"))
        self.adapt_text = IfConverter(bool, _("Cancel"), _("Adapt to this frame"))
        self.folder_text = IfConverter(bool, _("CSV, XYZ to:"), _("Not exported to files"))
        divider = u.create_divider(orientation="horizontal")
        self.ui_view = frame(
            self.__buttons_view(),
            [
                self.__source_view(),
                note(
                    "@binding(model.texts, converter=statistics_text)",
                    color=QUIET,
                    name="statistics_label",
                    tool_tip=_("Only the newest frame is analysed; older ones that still wait are skipped."),
                ),
                u.create_column(items="model.classes.items", item_component_id="class", spacing=2),
                divider,
                self.__look_view(),
                divider,
                self.__defects_view(),
                divider,
                self.__networks_view(),
                self.__adapting_view(),
                divider,
                self.__sampling_view(),
                divider,
                self.__folder_view(),
            ],
            status_lines(
                "@binding(model.texts, converter=status_text)",
                "@binding(model.texts, converter=detail_text)",
                status_color="@binding(model.texts, converter=status_color)",
                detail_color="@binding(model.texts, converter=detail_color)",
            ),
        )

    def close(self) -> None:
        """Close the model with the panel."""
        self.model.close()
        super().close()

    def create_handler(
        self, component_id: str, container: typing.Any = None, item: typing.Any = None, **kwargs: typing.Any
    ) -> Declarative.HandlerLike | None:
        """Return the view of one class or network."""
        handlers = {"class": ClassHandler, "network": NetworkHandler}
        return handlers[component_id](item) if component_id in handlers else None

    # --- the parts, top to bottom -----------------------------------------------------------------------------------

    def __buttons_view(self) -> Declarative.UIDescription:
        return u.create_row(
            u.create_push_button(
                text="@binding(model.is_running, converter=start_text)",
                on_clicked="start_clicked",
                name="start_button",
                width=72,
                tool_tip=_("Find atoms in every frame from now on. The scan itself is never started from here."),
            ),
            u.create_push_button(
                text="@binding(model.adapting.is_running, converter=adapt_text)",
                on_clicked="adapt_clicked",
                name="adapt_button",
                width=136,
                tool_tip=_(
                    "Train the model further on the frame that is shown: probe and noise are estimated from it, no "
                    "labels are needed. It takes a minute or two in the background and makes a new model; the one "
                    "it started from is kept."
                ),
            ),
            u.create_push_button(
                text=_("Snapshot"),
                on_clicked="snapshot_clicked",
                name="snapshot_button",
                width=80,
                tool_tip=_("Keep the newest frame, its atoms and its uncertainty, with how they were found"),
            ),
            u.create_stretch(),
            help_button(),
            spacing=6,
        )

    def __source_view(self) -> Declarative.UIDescription:
        source = u.create_combo_box(
            items_ref="@binding(model.source_names)", current_index="@binding(model.source_index)", name="source_combo"
        )
        models = u.create_combo_box(
            items_ref="@binding(model.model_names)", current_index="@binding(model.model_index)", name="model_combo"
        )
        return u.create_column(
            row(
                _("Image"),
                source,
                stretch=False,
                tool_tip=_("A channel of the scan, frame by frame, or the image in the selected display panel"),
            ),
            row(
                _("Model"),
                models,
                stretch=False,
                tool_tip=_("What the networks were trained to recognise"),
            ),
            fine_print("model", 2),
            row(
                _("Classes"),
                u.create_combo_box(
                    items=[_("of the networks"), _("by intensity"), _("by neighbours"), _("by examples")],
                    current_index="@binding(model.classes_index)",
                    name="classes_combo",
                ),
                stretch=False,
                tool_tip=_(
                    "What tells the atoms apart: the networks; a Gaussian mixture of their intensities, from dim (I1) "
                    "to bright; how many neighbours they have; or what looks like the atoms that you name"
                ),
            ),
            self.__examples_view(),
            spacing=4,
        )

    def __examples_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_row(
                u.create_spacing(LABEL_WIDTH + 6),
                u.create_line_edit(
                    text="@binding(model.examples.name)", placeholder_text=_("class"), width=84, name="example_edit",
                    tool_tip=_("Name of the class, such as S1 or “odd”"),
                ),
                u.create_check_box(
                    text=_("Click to name"), checked="@binding(model.examples.is_clicking)", name="example_check_box",
                    tool_tip=_("A click on an atom in the image makes it an example of this class"),
                ),
                u.create_stretch(),
                u.create_push_button(
                    text=_("Forget"), on_clicked="forget_clicked", name="forget_button",
                    tool_tip=_("Begin again, without examples"),
                ),
                spacing=8,
            ),
            u.create_row(
                u.create_spacing(LABEL_WIDTH + 6),
                note("@binding(model.examples.text)", 2, color=QUIET, name="example_label"),
            ),
            spacing=4,
            visible="@binding(model.examples.is_offered)",
        )

    def __look_view(self) -> Declarative.UIDescription:
        def slider(value: str, low: int, high: int, text: str) -> list[Declarative.UIDescription]:
            number = f"@binding({value}, converter={text})"
            return [
                u.create_slider(value=f"@binding({value}, converter=hundredths)", minimum=low, maximum=high),
                u.create_label(
                    text=number, width=48, text_alignment_horizontal="right", text_alignment_vertical="vcenter"
                ),
            ]

        return u.create_column(
            row(
                _("Confidence"),
                *slider("model.threshold", 20, 95, "percent_text"),
                tool_tip=_("Least probability of an atom that is shown. Acts at once; nothing is predicted again."),
                stretch=False,
            ),
            row(
                _("Ring radius"),
                *slider("model.radius", 20, 150, "angstrom_text"),
                tool_tip=_("Size of the rings on the specimen"),
                stretch=False,
            ),
            u.create_row(
                u.create_check_box(text=_("Rings"), checked="@binding(model.rings)"),
                u.create_check_box(text=_("Legend"), checked="@binding(model.legend)"),
                u.create_stretch(),
                spacing=12,
            ),
            u.create_row(
                u.create_check_box(
                    text=_("Uncertainty map"),
                    checked="@binding(model.uncertainty)",
                    tool_tip=_(
                        "Keep “Uncertainty of atoms” up to date: how far the networks of the ensemble disagree at each "
                        "pixel (standard deviation of the probability, 0 to 0.5). Drag it from the data panel."
                    ),
                ),
                u.create_check_box(
                    text=_("Denoised"),
                    checked="@binding(model.reconstruction)",
                    name="reconstruction_check_box",
                    tool_tip=_(
                        "Keep “Reconstruction (Gaussian process)” up to date beside the image, about once a second: "
                        "the frame with less noise, by a Gaussian process that learns its spectrum from the frame. It "
                        "is for the eye: atoms are found in the raw frame."
                    ),
                ),
                u.create_stretch(),
                spacing=12,
            ),
            spacing=6,
        )

    def __defects_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_check_box(
                text=_("Defects"),
                checked="@binding(model.defects)",
                name="defects_check_box",
                tool_tip=_(
                    "Look for odd rings, vacancies, atoms with too few neighbours, dopants, and areas that the "
                    "networks do not know, about once a second. Choose one to point it out in the image."
                ),
            ),
            u.create_list_box(
                items_ref="@binding(model.defect_names)",
                current_index="@binding(model.defect_index)",
                visible="@binding(model.defects)",
                name="defects_list",
                min_height=96,
                size_policy_vertical="expanding",
            ),
            spacing=4,
        )

    def __networks_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_row(
                u.create_push_button(
                    text=_("Check networks"), on_clicked="check_clicked", name="check_button", width=120,
                    tool_tip=_(
                        "Judge each network of the ensemble by the atoms that it alone would find in this frame: their "
                        "distances, neighbours and number. Those that draw what no structure is are left out; tick or "
                        "untick them to decide yourself."
                    ),
                ),
                note("@binding(model.networks.text)", 2, color=QUIET, name="networks_label"),
                spacing=8,
            ),
            u.create_column(items="model.networks.networks.items", item_component_id="network", spacing=2),
            spacing=4,
        )

    def __adapting_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_row(
                u.create_progress_bar(
                    value="@binding(model.adapting.percent)",
                    minimum=0,
                    maximum=100,
                    width=100,
                    visible="@binding(model.adapting.is_running)",
                ),
                u.create_push_button(
                    text=_("Keep"),
                    on_clicked="keep_clicked",
                    visible="@binding(model.adapting.is_asking)",
                    name="keep_button",
                    tool_tip=_("Put the adapted model into the list and use it"),
                ),
                u.create_push_button(
                    text=_("Discard"),
                    on_clicked="discard_clicked",
                    visible="@binding(model.adapting.is_asking)",
                    name="discard_button",
                    tool_tip=_("Delete the adapted model; the one it started from stays in use"),
                ),
                u.create_stretch(),
                u.create_push_button(
                    text=_("Revert"),
                    on_clicked="revert_clicked",
                    visible="@binding(model.adapting.can_revert)",
                    name="revert_button",
                    width=72,
                    tool_tip=_("Go back to the model from before; the adapted one stays in the list"),
                ),
                spacing=8,
                height=24,
            ),
            note("@binding(model.adapting.text)", 3, color=QUIET, name="adapting_label"),
            spacing=4,
        )

    def __sampling_view(self) -> Declarative.UIDescription:
        return u.create_column(
            row(
                _("Sampling"),
                u.create_combo_box(
                    items=[_("of the image"), _("typed"), _("from the lattice")],
                    current_index="@binding(model.sampling_index)",
                    enabled="@binding(model.is_running)",
                    name="sampling_combo",
                ),
                u.create_line_edit(
                    text="@binding(model.typed_sampling)",
                    placeholder_text="0.104",
                    enabled="@binding(model.is_running)",
                    width=64,
                    name="sampling_edit",
                ),
                u.create_label(text="Å/px", text_alignment_vertical="vcenter"),
                tool_tip=_(
                    "Size of a pixel. Images without calibration need it typed, in Å per pixel, or estimated from the "
                    "lattice that they show. It applies to this image or channel until Swift is closed."
                ),
            ),
            fine_print("sampling", 2),
            spacing=4,
        )

    def __folder_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_row(
                u.create_label(
                    text="@binding(model.folder, converter=folder_text)", color=QUIET, text_alignment_vertical="vcenter"
                ),
                u.create_stretch(),
                u.create_push_button(
                    text=_("Folder…"),
                    on_clicked="folder_clicked",
                    name="folder_button",
                    tool_tip=_("Where snapshots are also written as CSV and extended XYZ"),
                ),
                u.create_push_button(
                    text="✕",
                    width=28,
                    on_clicked="no_folder_clicked",
                    enabled="@binding(model.folder, converter=is_there)",
                    name="no_folder_button",
                    tool_tip=_("Stop exporting to files"),
                ),
                spacing=8,
            ),
            note("@binding(model.folder)", color=QUIET, name="folder_label"),
            spacing=4,
        )

    # --- what the widgets do ----------------------------------------------------------------------------------------

    def start_clicked(self, widget: Declarative.UIWidget) -> None:
        """Start, or stop."""
        if self.model.is_running:
            self.model.stop()
        else:
            self.model.start()

    def check_clicked(self, widget: Declarative.UIWidget) -> None:
        """Judge the networks."""
        self.model.networks.check()

    def adapt_clicked(self, widget: Declarative.UIWidget) -> None:
        """Adapt the model, or stop adapting."""
        if self.model.adapting.is_running:
            self.model.adapting.cancel()
        else:
            self.model.adapting.start()

    def forget_clicked(self, widget: Declarative.UIWidget) -> None:
        """Forget the examples."""
        self.model.examples.forget()

    def keep_clicked(self, widget: Declarative.UIWidget) -> None:
        """Keep the doubtful model."""
        self.model.adapting.keep()

    def discard_clicked(self, widget: Declarative.UIWidget) -> None:
        """Delete the doubtful model."""
        self.model.adapting.discard()

    def revert_clicked(self, widget: Declarative.UIWidget) -> None:
        """Go back to the model from before."""
        self.model.adapting.revert()

    def snapshot_clicked(self, widget: Declarative.UIWidget) -> None:
        """Keep what is shown."""
        self.model.snapshot()

    def folder_clicked(self, widget: Declarative.UIWidget) -> None:
        """Choose the folder for exports; cancelled, it stays as it is."""
        folder, _directory = self.__window.ui.get_existing_directory_dialog(_("Export to"), self.model.folder)
        if folder:
            self.model.folder = folder

    def no_folder_clicked(self, widget: Declarative.UIWidget) -> None:
        """Stop exporting."""
        self.model.folder = ""

    def help_clicked(self, widget: Declarative.UIWidget) -> None:
        """Explain the panel."""
        show_help(self.__window, _("Atoms: help"), "atoms.md")


class AtomsPanel(Panel.Panel):
    """The panel that Swift puts into its dock."""

    panel_id = "stem-ae-atoms-panel"
    title = _("Atoms")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        panel_id: str,
        properties: typing.Mapping[str, typing.Any],
    ) -> None:
        super().__init__(window, panel_id, self.title)
        self.model = AtomsModel(window)
        self.handler = AtomsHandler(window, self.model)
        self.widget = FramedWidget(window, self.handler)
