"""The Jobs panel: what is calculated in the background, what came out, and where to look next."""

from __future__ import annotations

import datetime
import gettext
import typing

from nion.swift import DocumentController, Panel
from nion.ui import CanvasItem, Declarative, DrawingContext, ListCanvasItem, UserInterface
from nion.utils import Geometry, Selection

from .fitted import SHEETS, fill, legible
from .jobs_model import JobsModel, Row
from .panel_frame import FramedWidget, frame, note, status_lines
from .parts import QUIET, IfConverter, TextConverter, help_button, show_help

_ = gettext.gettext
u = Declarative.DeclarativeUI()

ROW_HEIGHT = 36
TABLE_HEIGHT = 260
COLORS = {
    "waiting": "#606060", "queued": "#606060", "running": "#1A5F9A", "finished": "#146B2D", "failed": "#B71C1C",
    "cancelled": "#8A5200",
}  # fmt: skip
"""Of the states on a light theme; all of them can be read on a row that is selected, too."""


class JobsTable(ListCanvasItem.ListCanvasItemDelegate):
    """Draws the rows. One canvas item for them all, drawn in a paint thread: widgets would hold the user interface."""

    on_item_selected: typing.Callable[[int], None] | None = None
    on_cancel: typing.Callable[[], None] | None = None

    def __init__(self, opened: typing.Callable[[Row], None]) -> None:
        self.__rows: tuple[Row, ...] = ()
        self.__opened = opened
        self.is_dark = False
        """Whether the theme is dark."""

    @property
    def items(self) -> typing.Sequence[typing.Any]:
        """The rows, newest first."""
        return self.__rows

    @items.setter
    def items(self, value: typing.Sequence[typing.Any]) -> None:
        self.__rows = tuple(value)

    @property
    def item_count(self) -> int:
        """How many rows there are."""
        return len(self.__rows)

    def item_tool_tip(self, index: int) -> str | None:
        """Return what is wrong with a job, or its number."""
        return self.__rows[index].error or self.__rows[index].id

    def item_selected(self, index: int) -> bool:
        """Open what was double-clicked."""
        self.__opened(self.__rows[index])
        return True

    def paint_item(
        self,
        drawing_context: DrawingContext.DrawingContext,
        display_item: typing.Any,
        rect: Geometry.IntRect,
        is_selected: bool,
    ) -> None:
        """Draw one row: title and state above, progress and time left below."""
        row: Row = display_item
        sheet, colors = SHEETS[self.is_dark], self.__colors()
        middle = rect.top + ROW_HEIGHT / 2
        with drawing_context.saver():
            if is_selected:  # over Swift's own, which is so dark while the list has the focus that nothing can be read
                fill(drawing_context, rect, sheet.selected)
            drawing_context.text_baseline = "middle"
            drawing_context.font = "12px sans-serif"
            drawing_context.fill_style = sheet.ink
            drawing_context.fill_text(shortened(row.title, (rect.width - 90) // 7), rect.left + 8, middle - 7)
            drawing_context.text_align = "right"
            drawing_context.fill_style = colors[row.state]
            drawing_context.font = "bold 12px sans-serif"
            drawing_context.fill_text(row.state, rect.right - 8, middle - 7)
            drawing_context.font = "11px sans-serif"
            if row.state == "running" and not row.error:
                drawing_context.fill_text(row.time_left, rect.right - 8, middle + 9)
                self.__bar(drawing_context, rect.left + 8, middle + 6, rect.width - 96, row.fraction)
            else:
                submitted = datetime.datetime.fromtimestamp(row.created).strftime("%d %b, %H:%M:%S")
                drawing_context.text_align = "left"
                drawing_context.fill_style = colors["failed"] if row.error else sheet.fine
                drawing_context.fill_text(shortened(row.error or submitted, rect.width // 6), rect.left + 8, middle + 9)
            drawing_context.begin_path()
            drawing_context.move_to(rect.left, rect.bottom - 0.5)
            drawing_context.line_to(rect.right, rect.bottom - 0.5)
            drawing_context.line_width = 1
            drawing_context.stroke_style = sheet.rule
            drawing_context.stroke()

    def __colors(self) -> dict[str, str]:
        return {state: legible(color, True) for state, color in COLORS.items()} if self.is_dark else COLORS

    def __bar(
        self, context: DrawingContext.DrawingContext, left: float, top: float, width: float, fraction: float
    ) -> None:
        for part, color in ((1.0, SHEETS[self.is_dark].rule), (fraction, self.__colors()["running"])):
            context.begin_path()
            context.rect(left, top, width * part, 6)
            context.fill_style = color
            context.fill()


def shortened(text: str, characters: int) -> str:
    """Return a text that is cut where it does not fit."""
    return text if len(text) <= characters else text[: max(characters - 1, 1)] + "…"


class JobsHandler(Declarative.Handler):
    """The view on a :class:`JobsModel`."""

    def __init__(self, window: DocumentController.DocumentController, model: JobsModel) -> None:
        super().__init__()
        self.__window = window
        self.model = model
        self.summary_text = TextConverter("{0.summary}")
        self.details_text = TextConverter("{0.details}")
        self.message_text = TextConverter("{0.message}")
        self.has_message = IfConverter(lambda texts: bool(texts.message))
        self.selection = Selection.IndexedSelection(Selection.Style.single)
        self.table = JobsTable(lambda row: model.open_result(row.id))
        self.table_box: UserInterface.BoxWidget | None = None
        self.__list: ListCanvasItem.ListCanvasItem | None = None
        self.__listeners: list[typing.Any] = []
        self.ui_view = frame(
            self.__buttons_view(),
            [
                u.create_column(name="table_box"),
                note("@binding(model.texts, converter=details_text)", 5, color=QUIET, name="details_label"),
                u.create_divider(orientation="horizontal"),
                self.__next_view(),
            ],
            status_lines(
                "@binding(model.texts, converter=summary_text)", "@binding(model.texts, converter=message_text)"
            ),
        )

    def init_handler(self) -> None:
        """Put the table into its place: there is no declarative one."""
        assert self.table_box
        self.__list = ListCanvasItem.ListCanvasItem(self.table, self.selection, ROW_HEIGHT)
        area = CanvasItem.ScrollAreaCanvasItem(self.__list)
        area.auto_resize_contents = True
        group = CanvasItem.CanvasItemComposition()
        group.layout = CanvasItem.CanvasItemRowLayout()
        group.border_color = "#B0B0B0"
        group.add_canvas_item(area)
        group.add_canvas_item(CanvasItem.ScrollBarCanvasItem(area))
        canvas = self.__window.ui.create_canvas_widget(properties={"height": TABLE_HEIGHT, "min-width": 300})
        self.__ground = CanvasItem.BackgroundCanvasItem(SHEETS[False].ground)
        canvas.canvas_item.add_canvas_item(self.__ground)
        canvas.canvas_item.add_canvas_item(group)
        self.table_box.add(canvas)
        self.__listeners = [
            self.model.property_changed_event.listen(self.__model_changed),
            self.selection.changed_event.listen(self.__selection_changed),
        ]

    def theme_changed(self, is_dark: bool) -> None:
        """Draw the table in the colours of the theme."""
        assert self.__list
        self.table.is_dark = is_dark
        self.__ground.background_color = SHEETS[is_dark].ground
        self.__list.update()

    def close(self) -> None:
        """Close the model with the panel."""
        self.__listeners.clear()
        self.model.close()
        super().close()

    def __model_changed(self, name: str) -> None:
        if name != "rows" or self.__list is None:
            return
        length = len(self.table.items)
        self.table.items = self.model.rows
        selected = self.model.selected
        if selected and not self.selection.contains(index := self.model.rows.index(selected)):
            self.selection.set(index)  # newer jobs have moved it down
        if len(self.table.items) != length:
            self.__list.size_to_content()
        self.__list.update()

    def __selection_changed(self) -> None:
        index = self.selection.current_index
        if index is not None and index < len(self.model.rows):
            self.model.select(self.model.rows[index].id)

    # --- the parts ----------------------------------------------------------------------------------

    def __buttons_view(self) -> Declarative.UIDescription:
        def button(name: str, text: str, tool_tip: str, width: int) -> Declarative.UIDescription:
            return u.create_push_button(
                text=text,
                on_clicked=f"{name}_clicked",
                enabled=f"@binding(model.can_{name})",
                name=f"{name}_button",
                width=width,
                tool_tip=tool_tip,
            )

        start_over = _("Calculate the job again from the start; its earlier output is set aside, not deleted")
        return u.create_row(
            button("open", _("Open result"), _("Show the result beside the image it came from"), 92),
            button("retry", _("Retry"), _("Queue the job again; it goes on from its checkpoint"), 60),
            button("start_over", _("Start over"), start_over, 84),
            button("cancel", _("Cancel"), _("Take the job out of the queue and stop its process"), 66),
            u.create_stretch(),
            help_button(),
            spacing=6,
        )

    def __next_view(self) -> Declarative.UIDescription:
        return u.create_column(
            u.create_label(text=_("Look here next"), font="bold 13px"),
            u.create_row(
                u.create_combo_box(
                    items_ref="@binding(model.rankings)",
                    current_index="@binding(model.ranking_index)",
                    name="ranking_combo",
                ),
                u.create_push_button(
                    text=_("Rank"),
                    width=64,
                    on_clicked="rank_clicked",
                    name="rank_button",
                    tool_tip=_(
                        "Disagreement: theory moves atoms by more than their errors. Energy: the engine finds strain "
                        "or defects. Uncertainty: the networks or the dose leave much open."
                    ),
                ),
                spacing=6,
            ),
            u.create_list_box(
                items_ref="@binding(model.spot_texts)",
                current_index="@binding(model.spot_index)",
                name="spot_list",
                height=110,
            ),
            u.create_row(
                u.create_stretch(),
                u.create_push_button(
                    text=_("Mark on image"),
                    on_clicked="mark_clicked",
                    name="mark_button",
                    tool_tip=_("Draw a rectangle there, which the Simulate panel takes"),
                ),
            ),
            spacing=6,
        )

    # --- what the widgets do ----------------------------------------------------------------------------------------

    def help_clicked(self, widget: Declarative.UIWidget) -> None:
        """Explain the panel."""
        show_help(self.__window, _("Jobs: help"), "jobs.md")

    def cancel_clicked(self, widget: Declarative.UIWidget) -> None:
        """Cancel the chosen job."""
        self.model.cancel()

    def retry_clicked(self, widget: Declarative.UIWidget) -> None:
        """Retry the chosen job."""
        self.model.retry()

    def start_over_clicked(self, widget: Declarative.UIWidget) -> None:
        """Calculate the chosen job again from the start."""
        self.model.start_over()

    def open_clicked(self, widget: Declarative.UIWidget) -> None:
        """Show what came out."""
        self.model.open_result()

    def rank_clicked(self, widget: Declarative.UIWidget) -> None:
        """Rank the places to look at next."""
        self.model.rank()

    def mark_clicked(self, widget: Declarative.UIWidget) -> None:
        """Mark the chosen place."""
        self.model.mark_spot()


class JobsPanel(Panel.Panel):
    """The panel that Swift puts into its dock."""

    panel_id = "stem-ae-jobs-panel"
    title = _("Jobs")

    def __init__(
        self,
        window: DocumentController.DocumentController,
        panel_id: str,
        properties: typing.Mapping[str, typing.Any],
    ) -> None:
        super().__init__(window, panel_id, self.title)
        self.model = JobsModel(window)
        self.handler = JobsHandler(window, self.model)
        self.widget = FramedWidget(window, self.handler)

    def size_changed(self, width: int, height: int) -> None:
        """Look at the queue when the panel is first seen, not when Swift starts."""
        self.model.start()
