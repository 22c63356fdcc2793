"""Measures the panels in the real Nion Swift: what does not fit, and what moves when texts come and go."""

import asyncio
import dataclasses
import pathlib

from nion.ui import QtUserInterface, UserInterface
from nion.utils import Geometry

from nionswift_plugin.stem_ae_app import demo, screen
from nionswift_plugin.stem_ae_sim.panel import SimulatorPanel
from nionswift_plugin.stem_ae_ui import PANELS
from nionswift_plugin.stem_ae_ui.ejection_fates import Fate
from nionswift_plugin.stem_ae_ui.ejection_panel import EjectionPanel
from nionswift_plugin.stem_ae_ui.ejection_texts import TargetRow
from nionswift_plugin.stem_ae_ui.fitted import DEFAULT_FONT, fit_lines

SIDE = ("scan-control-panel-stem_ae_sim_scan", "data-panel", "stem-ae-simulator-panel")
OURS = tuple(panel.panel_id for panel in PANELS)
ARRANGEMENTS = {
    "all": (OURS, False),
    "Atoms and Explorer": (OURS[:2], False),
    **{panel.title: ((panel.panel_id,), False) for panel in PANELS},
    "tabbed": (OURS, True),  # the last one, since Swift leaves them so
}
"""What is docked beside the scan, data and simulator panels, and whether as tabs."""
LONG = (
    "The image has no calibration, so that nothing is known about the size of its pixels: choose “typed” and say it in "
    "Å per pixel, or let it be estimated from the lattice. /home/a-user-with-a-long-name/measurements/2026-02-03"
)
LONG_NAMES = [f"mos2-20260203-{time}-adapted-to-a-frame-at-60-kV" for time in ("101530", "101531")]
# What these are, beside their text, in points
ROOM = {"PushButtonWidget": 12, "CheckBoxWidget": 22, "ComboBoxWidget": 30, "LineEditWidget": 10, "LabelWidget": 0}
WHOLE_NAME = 30
"""Names of fewer letters are shown whole."""
FREE_TEXTS = ("property_words_edit", "other_words_edit", "pseudopotentials_edit")


# --- geometry ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rect:
    """A rectangle on the screen, in points."""

    left: int
    top: int
    width: int
    height: int

    def holds(self, other):
        """Return whether another one is inside."""
        return (
            self.left <= other.left and self.top <= other.top and self.left + self.width >= other.left + other.width
            and self.top + self.height >= other.top + other.height
        )  # fmt: skip

    def overlaps(self, other):
        """Return whether they have more than an edge in common."""
        return (
            min(self.left + self.width, other.left + other.width) - max(self.left, other.left) > 1
            and min(self.top + self.height, other.top + other.height) - max(self.top, other.top) > 1
        )  # fmt: skip


def rect(window, native):
    """Return where a native widget is."""
    proxy = window._document_window.proxy
    return Rect(*proxy.Widget_mapToGlobal(native, 0, 0), *proxy.Widget_getWidgetSize(native))


def whole(window):
    """Return where Swift's window is."""
    return rect(window, window._document_window.native_document_window)


def inside(widget):
    """Yield a widget and all that it contains."""
    yield widget
    for child in widget._contained_widgets:
        yield from inside(child)


def shown(window, widget):
    """Return the widgets with a text or a picture that are visible, or scrolled away, with their places."""
    proxy = window._document_window.proxy
    kinds = (*ROOM, "ImageWidget", "SliderWidget", "ProgressBarWidget", "CanvasWidget")
    leaves = [w for w in inside(widget) if type(w).__name__ in kinds]
    natives = [(leaf, QtUserInterface.extract_widget(leaf)) for leaf in leaves]
    return [(leaf, rect(window, native)) for leaf, native in natives if proxy.Widget_isVisible(native)]


def text_of(widget):
    """Return what Qt shows, not what was asked for."""
    behavior = getattr(widget._behavior, "_inner", widget._behavior)
    if isinstance(widget, UserInterface.ComboBoxWidget):
        return behavior.current_text
    return (getattr(behavior, "text", None) or "").rstrip("\n")


# --- complaints -------------------------------------------------------------------------------------------------------


def complaints(window, panel):
    """Return what is wrong with a panel that is shown."""
    dock = rect(window, panel.dock_widget.native_dock_widget)
    scroll_area = panel.widget._FramedWidget__handler.scroll_area
    scrolled = shown(window, scroll_area.content)
    placed = shown(window, panel.widget)
    fixed = [(leaf, place) for leaf, place in placed if all(leaf is not other for other, _ in scrolled)]
    said = [] if whole(window).holds(dock) else [f"the panel is not in the window: {dock}"]
    for leaf, place in placed:
        said += [f"{name_of(panel, leaf)}: {what}" for what in cut(window, leaf, place)]
        if place.left < dock.left or place.left + place.width > dock.left + dock.width:
            said.append(f"{name_of(panel, leaf)}: reaches out of the panel: {place}")
    viewport = Rect(dock.left, 0, scroll_area.viewport.width + 2, 10**6)
    said += [
        f"{name_of(panel, leaf)}: is under the scroll bar: {place}" for leaf, place in scrolled
        if place.left + place.width > viewport.left + viewport.width
    ]  # fmt: skip
    said += [f"{name_of(panel, leaf)}: out of view: {place}" for leaf, place in fixed if not dock.holds(place)]
    for group in (scrolled, fixed):
        said += [
            f"{name_of(panel, first)} and {name_of(panel, second)} overlap: {a}, {b}"
            for index, (first, a) in enumerate(group) for second, b in group[:index] if a.overlaps(b) and a != b
        ]  # fmt: skip
    return [f"{panel.display_name}: {text}" for text in said]


def cut(window, leaf, place):
    """Yield how a text is cut."""
    text, kind = text_of(leaf), type(leaf).__name__
    if kind not in ROOM or not text or getattr(leaf, "name_in_handler", "") in FREE_TEXTS:
        return
    if kind == "ComboBoxWidget" and text != leaf.current_text and len(leaf.current_text) < WHOLE_NAME:
        yield f"“{leaf.current_text}” is shown as “{text}”"
    font = getattr(leaf._behavior, "_font", DEFAULT_FONT)
    measure = lambda piece: window.ui.get_font_metrics(font, piece).width  # noqa: E731
    line = window.ui.get_font_metrics(font, "Åg").height
    lines = text.splitlines() or [text]
    if kind == "LabelWidget" and leaf.word_wrap:
        lines = fit_lines(text, place.width, 10**6, measure)[0].splitlines()
    widest = max(measure(piece) for piece in lines)
    if widest + ROOM[kind] > place.width + 1:
        yield f"“{text}” needs a width of {widest + ROOM[kind]:.0f} and has {place.width}"
    if line * len(lines) > place.height + 1:
        yield f"“{text}” needs a height of {line * len(lines):.0f} and has {place.height}"


def name_of(panel, leaf):
    """Return what a panel's handler calls a widget, or what it is."""
    handler = panel.widget._FramedWidget__handler
    names = [name for name, value in vars(handler).items() if value is leaf]
    return names[0] if names else f"{type(leaf).__name__} “{text_of(leaf)}”"


# --- scenarios --------------------------------------------------------------------------------------------------------


def panels_of(window, panel_ids):
    """Return the panels, in this order."""
    docked = {panel.panel_id: panel for panel in screen.workspace(window).dock_panels}
    return [docked[panel_id] for panel_id in panel_ids]


async def arranged(window, panel_ids, tabbed):
    """Show these panels beside the scan, data and simulator panels and return those of ours."""
    screen.show_only(window, *SIDE, *panel_ids)
    panels = panels_of(window, panel_ids)
    if tabbed:
        for panel in panels[1:]:
            window._document_window.tabify_dock_widgets(panels[0].dock_widget, panel.dock_widget)
    await settled(window, panels)
    return [*panels, *(panel for panel in panels_of(window, SIDE[2:]))]


async def settled(window, panels):
    """Wait until nothing moves any more."""
    before = None
    while before != (before := places(window, panels)):
        await asyncio.sleep(0.3)


def visible(window, panels):
    """Return the panels that are not behind another one's tab, which Qt puts far away."""
    return [panel for panel in panels if rect(window, panel.dock_widget.native_dock_widget).left > -100]


def say_much(panels):
    """Let the models of the panels say as much as they can, and return what undoes it."""
    before, lists = [], []
    for panel in panels:
        if isinstance(panel, SimulatorPanel):
            continue
        model = panel.model
        before.append((model, model.texts))
        fields = [field.name for field in dataclasses.fields(model.texts) if not field.name.endswith("_color")]
        model.texts = dataclasses.replace(model.texts, **dict.fromkeys(fields, LONG))
        model.notify_property_changed("texts")
        if isinstance(panel, EjectionPanel):
            lists.append(model.rows)
            model.rows.items = [TargetRow(1)]
            model.rows.items[0].update(Fate("S2", "unclear", LONG), False)

    def undo():
        for rows in lists:
            rows.items = []
        for model, texts in before:
            model.texts = texts
            model.notify_property_changed("texts")

    return undo


def places(window, panels):
    """Return where the buttons of each panel's header are."""
    return {
        (panel.display_name, name_of(panel, leaf)): place for panel in visible(window, panels)
        for leaf, place in shown(window, panel.widget) if type(leaf).__name__ == "PushButtonWidget"
        and place.top < rect(window, QtUserInterface.extract_widget(panel.widget)).top + 40
    }  # fmt: skip


async def measure(window, arrangements, pictures=""):
    """Return what is wrong with each arrangement, and how large window and panels are."""
    screen.fill_screen(window)
    await scan(window)
    size = window._document_window.screen_size
    limits = Rect(0, 0, size.width, size.height)
    rows = []
    for name in arrangements:
        panels = await arranged(window, *ARRANGEMENTS[name])
        for texts in ("usual", "long"):
            before = places(window, panels)
            undo = say_much(panels) if texts == "long" else lambda: None
            await settled(window, panels)
            seen, after = visible(window, panels), places(window, panels)
            said = [text for panel in seen for text in complaints(window, panel)]
            if not limits.holds(whole(window)):
                said.append(f"the window is larger than the screen: {whole(window)}")
            said += [f"{key} moved: {before[key]}, {after.get(key)}" for key in before if after.get(key) != before[key]]
            docks = {panel.display_name: rect(window, panel.dock_widget.native_dock_widget) for panel in seen}
            rows.append({
                "arrangement": name, "texts": texts, "window": size_of(whole(window)),
                "panels": {title: size_of(dock) for title, dock in docks.items()}, "complaints": said,
            })  # fmt: skip
            if pictures:
                screen.grab(pathlib.Path(pictures, f"{name} {texts}.png".replace(" ", "_")))
            undo()
        await asyncio.sleep(0.1)
    return rows


def size_of(place):
    """Return width and height."""
    return place.width, place.height


async def scan(window):
    """Let the simulated microscope scan, so that there is an image."""
    device = demo.simulated_scan()
    parameters = device.get_frame_parameters(device.selected_profile_index)
    parameters.pixel_size = Geometry.IntSize(256, 256)
    device.set_frame_parameters(device.selected_profile_index, parameters)
    await demo.scanning(window, device)
    device.abort_playing(sync_timeout=3.0)
