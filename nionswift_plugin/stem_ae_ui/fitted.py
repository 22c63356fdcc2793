"""Labels and combo boxes that fit: texts that never change a panel's layout, in colours that are legible on its theme.

Swift's labels grow with their text, are black on any ground, and its combo boxes cut a long name off at its end, which
is often what tells two names apart. `FittedInterface` stands in for Swift's user interface while a panel is made:

- A label with a height given keeps it: its text is wrapped to the lines that there is room for. If that is not all of
  it, it ends with an ellipsis, and the whole text is in the tool tip.
- A combo box shortens long names in their middle, and says the whole name in its tool tip.
- Colours of labels are made darker, or lighter, until they can be read.

Swift's list boxes are black on any ground as well: `color_list` draws their lines anew, on a `Sheet` of today's theme.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import itertools
import textwrap
import typing
import weakref

from nion.ui import CanvasItem, DrawingContext, UserInterface, Widgets
from nion.utils import Color, Geometry

DEFAULT_FONT = "12px"
ELLIPSIS = "…"
TIP_LETTERS = 64
"""Letters in one line of a tool tip; without line breaks Qt draws one line across the screen."""
LEAST_CONTRAST = 4.5
"""Of text on its ground, WCAG 2.1's level AA."""

_GROUNDS = {False: (239, 239, 239), True: (49, 54, 59)}
_INKS = {False: "#000000", True: "#EFF0F1"}
_ARROW = 34
"""Width of a combo box that is not for its text."""

Measure = typing.Callable[[str], float]


def wrapped_tip(text: str) -> str:
    """Return a tool tip in lines of a readable length."""
    return "\n".join(textwrap.fill(line, TIP_LETTERS) for line in text.splitlines())


# --- texts ------------------------------------------------------------------------------------------------------------


def fit_lines(text: str, width: float, lines: int, measure: Measure) -> tuple[str, bool]:
    """Return a text in at most so many lines of this width, and whether that is all of it.

    Parameters
    ----------
    text : str
        Its own line breaks are kept.
    width : float
        Of a line, in the units of ``measure``.
    lines : int
        How many there may be.
    measure : callable
        Returns the width of a piece of text.
    """
    result: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in _breakable(paragraph.split(), width, measure):
            longer = f"{line} {word}" if line else word
            if line and measure(longer) > width:
                result.append(line)
                line = word
            else:
                line = longer
        result.append(line)
    whole = len(result) <= lines and all(measure(line) <= width for line in result)
    kept = result[:lines]
    if len(result) > lines:
        kept[-1] = kept[-1] + ELLIPSIS
    return "\n".join(shorten(line, width, measure, tail=0.0) for line in kept), whole


def _breakable(words: typing.Iterable[str], width: float, measure: Measure) -> typing.Iterator[str]:
    """Yield words, those that are wider than a line (paths) in pieces."""
    for word in words:
        while measure(word) > width and len(word) > 1:
            piece = next((n for n in range(len(word) - 1, 1, -1) if measure(word[:n]) <= width), 1)
            yield word[:piece]
            word = word[piece:]
        yield word


def shorten(text: str, width: float, measure: Measure, tail: float = 0.5) -> str:
    """Return a text with its middle left out, so that it has this width; ``tail`` of what is kept is its end."""
    if measure(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(_without_middle(text, middle, tail)) <= width else (low, middle - 1)
    return _without_middle(text, low, tail)


def _without_middle(text: str, kept: int, tail: float) -> str:
    end = round(tail * kept)
    return text[: kept - end].rstrip() + ELLIPSIS + text[len(text) - end :]


def shorten_apart(names: typing.Sequence[str], width: float, measure: Measure) -> list[str]:
    """Return short forms of names, different ones for different names, even if the difference is in the middle."""
    short = [shorten(name, width, measure) for name in names]
    for place, form in enumerate(short):
        alike = [other for other in range(len(names)) if short[other] == form and names[other] != names[place]]
        if alike:
            for other in [place, *alike]:
                short[other] = _from_difference(names[other], [names[i] for i in [place, *alike]], width, measure)
    return short


def _from_difference(name: str, others: typing.Sequence[str], width: float, measure: Measure) -> str:
    """Return a name shortened so that the part in which it differs from the others is seen."""
    common = len(list(itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*others, strict=False))))
    seen = ELLIPSIS + name[max(common - 3, 0) :]
    return shorten(seen, width, measure, tail=0.0)


# --- colours ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def legible(color: str | None, is_dark: bool) -> str:
    """Return a colour of the same hue that can be read on the ground of a panel; black is the ordinary ink."""
    rgb: tuple[int, ...] = tuple(Color.Color(color).to_rgb_255()) if color else (0, 0, 0)
    if rgb == (0, 0, 0):
        return _INKS[is_dark]
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in rgb))
    while contrast(rgb, _GROUNDS[is_dark]) < LEAST_CONTRAST and 0 < lightness < 1:
        lightness = min(max(lightness + (0.02 if is_dark else -0.02), 0.0), 1.0)
        rgb = tuple(round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation))
    return "#{:02X}{:02X}{:02X}".format(*rgb)


def contrast(first: typing.Sequence[int], second: typing.Sequence[int]) -> float:
    """Return the contrast ratio of two colours (0 to 255 each), 1 to 21, as WCAG 2.1 defines it."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: typing.Sequence[int]) -> float:
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (value / 255 for value in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# --- lists ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The colours of a list."""

    ground: str
    selected: str
    """Ground of the line that is selected."""
    ink: str
    fine: str
    """Text of less importance."""
    rule: str
    """Lines between rows."""


SHEETS = {
    False: Sheet("#FFFFFF", "#D3E5F7", "#000000", "#505050", "#E0E0E0"),
    True: Sheet("#232629", "#1D3145", "#EFF0F1", "#B0B4B8", "#4D4D4D"),
}
"""By whether the theme is dark."""


def fill(drawing_context: DrawingContext.DrawingContext, rect: Geometry.IntRect, color: str) -> None:
    """Fill a rectangle."""
    drawing_context.begin_path()
    drawing_context.rect(rect.left, rect.top, rect.width, rect.height)
    drawing_context.fill_style = color
    drawing_context.fill()


class _Line:
    """Draws a line of one of Swift's list boxes."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet

    def __call__(
        self, drawing_context: DrawingContext.DrawingContext, item: typing.Any, rect: Geometry.IntRect, selected: bool
    ) -> None:
        with drawing_context.saver():
            if selected:  # over Swift's own, on which light letters cannot be read
                fill(drawing_context, rect, self.sheet.selected)
            drawing_context.fill_style = self.sheet.ink
            drawing_context.font = DEFAULT_FONT
            drawing_context.text_align = "left"
            drawing_context.text_baseline = "middle"
            drawing_context.fill_text(str(item), rect.left + 4, rect.top + rect.height / 2)


def color_list(widget: Widgets.ListWidget, is_dark: bool) -> None:
    """Draw a list box of Swift's in the colours of a theme; Swift itself has no way to choose them."""
    inside: typing.Any = widget
    delegate = inside._ListWidget__list_canvas_item_delegate
    if isinstance(delegate.paint_item, _Line):
        delegate.paint_item.sheet = SHEETS[is_dark]
        inside._ListWidget__canvas_widget.canvas_item.canvas_items[0].background_color = SHEETS[is_dark].ground
    else:
        delegate.paint_item = _Line(SHEETS[is_dark])
        ground = CanvasItem.BackgroundCanvasItem(SHEETS[is_dark].ground)
        inside._ListWidget__canvas_widget.canvas_item.insert_canvas_item(0, ground)
    widget.update()


# --- widgets ----------------------------------------------------------------------------------------------------------


class _Behavior:
    """Wraps Qt's part of a widget and forwards everything it does not handle."""

    def __init__(self, inner: typing.Any, interface: FittedInterface) -> None:
        self._inner: typing.Any
        self._tip: str | None
        self.__dict__.update(_inner=inner, _interface=interface, _tip=None)

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self.__dict__["_inner"], name)

    def __setattr__(self, name: str, value: typing.Any) -> None:
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            setattr(self._inner, name, value)

    @property
    def tool_tip(self) -> str | None:
        """The panel's own tool tip; a text that does not fit is put before it."""
        return self._tip

    @tool_tip.setter
    def tool_tip(self, value: str | None) -> None:
        self._tip = wrapped_tip(value) if value else None
        self._inner.tool_tip = self._tip

    def _show_tip(self, text: str) -> None:
        """Put a text that does not fit, if there is one, before the tool tip."""
        self._inner.tool_tip = "\n\n".join(filter(None, [wrapped_tip(text), self._tip])) or None


class LabelBehavior(_Behavior):
    """A label; with a greatest height, in points, its text has to fit."""

    def __init__(self, inner: typing.Any, interface: FittedInterface, height: int | None) -> None:
        super().__init__(inner, interface)
        self._is_fixed, self._height = height is not None, height or 0
        self._text, self._font = "", DEFAULT_FONT
        self._color: str | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return self._text

    @text.setter
    def text(self, value: str | None) -> None:
        self._text = value or ""
        self.fit()

    @property
    def word_wrap(self) -> bool:
        """Whether Qt wraps; where the height is given, this does."""
        return bool(self._inner.word_wrap)

    @word_wrap.setter
    def word_wrap(self, value: bool) -> None:
        if not self._is_fixed:
            self._inner.word_wrap = value

    def set_text_font(self, value: str | None) -> None:
        """Set the font."""
        self._font = value or DEFAULT_FONT
        self._inner.set_text_font(value or (DEFAULT_FONT if self._is_fixed else None))
        self.fit()

    def set_text_color(self, value: str | None) -> None:
        """Set the colour, as far as it can be read on today's theme."""
        self._color = value
        self._inner.set_text_color(legible(value, self._interface.is_dark))

    def fit(self) -> None:
        """Fit the text into the current width."""
        if not self._is_fixed:
            self._inner.text = self._text
            return
        size = self._inner.size
        measure = self._interface.measure(self._font)
        lines = max(int(size.height / self._interface.line_height(self._font)), 1)
        text, whole = fit_lines(self._text, size.width, lines, measure)
        # Qt reserves height for the lines of the text, so it always gets the same number: the height never changes.
        most = int(self._height / self._interface.line_height(self._font))
        self._inner.text = text + "\n" * (most - 1 - text.count("\n"))
        self._show_tip("" if whole else self._text)

    def recolor(self) -> None:
        """Adopt another theme."""
        self.set_text_color(self._color)


class ComboBehavior(_Behavior):
    """A combo box that shortens names in their middle."""

    def __init__(self, inner: typing.Any, interface: FittedInterface) -> None:
        super().__init__(inner, interface)
        self._names: list[str] = []
        self._short: list[str] = []
        self._changed: typing.Callable[[str], None] | None = None

    def set_item_strings(self, strings: typing.Sequence[str]) -> None:
        """Offer these names."""
        self._names = list(strings)
        self._short = shorten_apart(
            self._names, max(self._inner.size.width - _ARROW, 0), self._interface.measure(DEFAULT_FONT)
        )
        self._inner.set_item_strings(self._short)
        self._tell()

    @property
    def current_text(self) -> str:
        """The whole name that is chosen."""
        text = self._inner.current_text
        return self._names[self._short.index(text)] if text in self._short else text

    @current_text.setter
    def current_text(self, value: str) -> None:
        self._inner.current_text = self._short[self._names.index(value)] if value in self._names else value
        self._tell()

    @property
    def on_current_text_changed(self) -> typing.Callable[[str], None] | None:
        """Called when the user has chosen, with the whole name."""
        return self._changed

    @on_current_text_changed.setter
    def on_current_text_changed(self, value: typing.Callable[[str], None] | None) -> None:
        self._changed = value

        def changed(text: str) -> None:
            self._tell()
            if value:
                value(self.current_text)

        self._inner.on_current_text_changed = changed if value else None

    def fit(self) -> None:
        """Shorten the names for the current width."""
        short = shorten_apart(
            self._names, max(self._inner.size.width - _ARROW, 0), self._interface.measure(DEFAULT_FONT)
        )
        if short != self._short:
            chosen = self.current_text
            self._short = short
            changed, self._inner.on_current_text_changed = self._inner.on_current_text_changed, None
            self._inner.set_item_strings(short)
            self.current_text = chosen
            self._inner.on_current_text_changed = changed
        self._tell()

    def _tell(self) -> None:
        name = self.current_text
        self._show_tip("" if name in self._short else name)


class FittedInterface:
    """Swift's user interface with fitted labels and combo boxes.

    Parameters
    ----------
    ui : UserInterface
        Swift's.
    is_dark : bool
        Whether its theme is a dark one.
    """

    def __init__(self, ui: UserInterface.UserInterface, is_dark: bool = False) -> None:
        self.__ui = ui
        self.__is_dark = is_dark
        self.__behaviors: weakref.WeakSet[LabelBehavior | ComboBehavior] = weakref.WeakSet()
        self.__widths: dict[tuple[str, str], float] = {}

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self.__ui, name)

    def create_label_widget(
        self, text: str | None = None, properties: typing.Mapping[str, typing.Any] | None = None
    ) -> UserInterface.LabelWidget:
        """Return a fitted label."""
        properties = properties or {}
        height = next((properties[name] for name in ("height", "max-height") if name in properties), None)
        if height is not None:  # otherwise Qt would make the panel as wide as the text is
            properties = {"min-width": 20, "size-policy-horizontal": "expanding", **properties}
        behavior = LabelBehavior(self.__ui.create_label_widget(None, properties)._behavior, self, height)
        self.__behaviors.add(behavior)
        return UserInterface.LabelWidget(typing.cast(typing.Any, behavior), text)

    def create_combo_box_widget(
        self,
        items: typing.Sequence[typing.Any] | None = None,
        item_getter: typing.Callable[[typing.Any], str] | None = None,
        properties: typing.Mapping[str, typing.Any] | None = None,
    ) -> UserInterface.ComboBoxWidget:
        """Return a fitted combo box."""
        if "width" not in (properties or {}):
            properties = {"min-width": 60, "size-policy-horizontal": "expanding", **(properties or {})}
        behavior = ComboBehavior(self.__ui.create_combo_box_widget(None, None, properties)._behavior, self)
        self.__behaviors.add(behavior)
        return UserInterface.ComboBoxWidget(
            typing.cast(typing.Any, behavior), items or [], typing.cast(typing.Any, item_getter)
        )

    @property
    def is_dark(self) -> bool:
        """Whether the theme is a dark one."""
        return self.__is_dark

    @is_dark.setter
    def is_dark(self, value: bool) -> None:
        if value != self.__is_dark:
            self.__is_dark = value
            for behavior in self.__behaviors:
                if isinstance(behavior, LabelBehavior):
                    behavior.recolor()

    def fit(self) -> None:
        """Fit everything again, since the panel has another size."""
        for behavior in list(self.__behaviors):
            behavior.fit()

    def measure(self, font: str) -> Measure:
        """Return the function that measures texts in a font."""

        def width(text: str) -> float:
            key = (font, text)
            if key not in self.__widths:
                if len(self.__widths) > 5000:
                    self.__widths.clear()
                self.__widths[key] = self.__ui.get_font_metrics(font, text).width
            return self.__widths[key]

        return width

    def line_height(self, font: str) -> float:
        """Return the height of a line."""
        return float(self.__ui.get_font_metrics(font, "Åg").height)
