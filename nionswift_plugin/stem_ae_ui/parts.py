"""What the panels are made of: rows, fields, converters, the help window."""

from __future__ import annotations

import gettext
import importlib.resources
import pathlib
import typing
import weakref
import webbrowser

from nion.swift import DocumentController
from nion.ui import Declarative
from nion.utils import Converter

from .panel_frame import note

_ = gettext.gettext
u = Declarative.DeclarativeUI()

LABEL_WIDTH = 72
INK, QUIET, CAREFUL = "#000000", "#707070", "#B26A00"


def row(
    label: str, *widgets: Declarative.UIDescription, tool_tip: str = "", stretch: bool = True
) -> Declarative.UIDescription:
    """Return a row with its name in front; without ``stretch`` its widgets fill it."""
    name = u.create_label(text=label, width=LABEL_WIDTH, text_alignment_vertical="vcenter", tool_tip=tool_tip)
    return u.create_row(name, *widgets, *[u.create_stretch()] * stretch, spacing=6)


def field(name: str, width: int = 52, **options: typing.Any) -> Declarative.UIDescription:
    """Return a field for a property of the model; without a width it takes what room there is."""
    if width:
        options["width"] = width
    return u.create_line_edit(text=f"@binding(model.{name})", name=f"{name}_edit", **options)


def unit(text: str) -> Declarative.UIDescription:
    """Return the words between or behind fields."""
    return u.create_label(text=text, text_alignment_vertical="vcenter")


def combo(name: str, items: typing.Sequence[str]) -> Declarative.UIDescription:
    """Return a choice; the model's ``..._index`` is the chosen one."""
    return u.create_combo_box(
        items=[_(item) for item in items], current_index=f"@binding(model.{name}_index)", name=f"{name}_combo"
    )


def help_button() -> Declarative.UIDescription:
    """Return the button that explains the panel; its handler has ``help_clicked``."""
    return u.create_push_button(
        text="?", width=28, on_clicked="help_clicked", name="help_button", tool_tip=_("How this panel works")
    )


def fine_print(name: str, lines: int = 1, indent: int = LABEL_WIDTH + 6) -> Declarative.UIDescription:
    """Return one of the model's texts in grey under the row before it, in lines that are kept for it."""
    text = note(f"@binding(model.texts, converter={name}_text)", lines, color=QUIET, name=f"{name}_label")
    return u.create_row(u.create_spacing(indent), text)


def show_in_files(folder: pathlib.Path) -> None:
    """Show a folder in the system's file manager."""
    webbrowser.open(folder.absolute().as_uri())


class HundredthsConverter(Converter.ConverterLike[float, int]):
    """A number as the integer hundredths that sliders work with."""

    def convert(self, value: float | None) -> int | None:  # noqa: D102
        return None if value is None else round(100 * value)

    def convert_back(self, formatted_value: int | None) -> float | None:  # noqa: D102
        return None if formatted_value is None else formatted_value / 100


class TextConverter(Converter.ConverterLike[typing.Any, str]):
    """A value, or an attribute of it, in a format. One way."""

    def __init__(self, pattern: str) -> None:
        self.__pattern = pattern

    def convert(self, value: typing.Any) -> str | None:  # noqa: D102
        return self.__pattern.format(value)

    def convert_back(self, formatted_value: str | None) -> typing.Any:  # noqa: D102
        raise NotImplementedError


class CallConverter(Converter.ConverterLike[typing.Any, typing.Any]):
    """What a function makes of a value. One way."""

    def __init__(self, function: typing.Callable[[typing.Any], typing.Any]) -> None:
        self.__function = function

    def convert(self, value: typing.Any) -> typing.Any:  # noqa: D102
        return self.__function(value)

    def convert_back(self, formatted_value: typing.Any) -> typing.Any:  # noqa: D102
        raise NotImplementedError


class IfConverter(Converter.ConverterLike[typing.Any, typing.Any]):
    """One of two values, by a condition. One way."""

    def __init__(
        self, condition: typing.Callable[[typing.Any], bool], yes: typing.Any = True, no: typing.Any = False
    ) -> None:
        self.__condition = condition
        self.__yes, self.__no = yes, no

    def convert(self, value: typing.Any) -> typing.Any:  # noqa: D102
        return self.__yes if self.__condition(value) else self.__no

    def convert_back(self, formatted_value: typing.Any) -> typing.Any:  # noqa: D102
        raise NotImplementedError


class HelpWindow(Declarative.WindowHandler):
    """Explains panels: pages of ``resources``. Made by :func:`show_help`."""

    def __init__(self, window: DocumentController.DocumentController) -> None:
        super().__init__()
        self.__text = ""
        content = u.create_text_browser(markdown="@binding(text)", width=560, height=620)
        self.run(u.create_window(content, title=_("Help"), margin=8, window_style="tool"), parent_window=window)

    def close(self) -> None:
        """Be the open one no more."""
        for window, open_one in list(_HELP.items()):
            if open_one is self:
                del _HELP[window]
        super().close()

    @property
    def text(self) -> str:
        """What is shown, as Markdown."""
        return self.__text

    def show(self, title: str, pages: typing.Sequence[str]) -> None:
        """Show these pages."""
        resources = importlib.resources.files(__package__).joinpath("resources")
        self.__text = "\n\n".join(resources.joinpath(page).read_text("utf-8") for page in pages)
        self.window.title = title
        self.notify_property_changed("text")
        self.window.activate()


_HELP: weakref.WeakKeyDictionary[DocumentController.DocumentController, HelpWindow] = weakref.WeakKeyDictionary()
MANUAL = ("atoms.md", "explorer.md", "ejection.md", "simulate.md", "jobs.md")
"""The pages, in the order of the work."""


def show_help(window: DocumentController.DocumentController, title: str, *pages: str) -> HelpWindow:
    """Show pages of ``resources`` in the one help window of a document window."""
    if window not in _HELP:
        _HELP[window] = HelpWindow(window)
    _HELP[window].show(title, pages)
    return _HELP[window]
