"""Texts fitted into a panel: never too wide, shortened visibly, names distinguishable, colours legible."""

import colorsys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("nion.swift", reason="needs Nion Swift")

from nion.ui import CanvasItem, DrawingContext, TestUI, Widgets
from nion.utils import Color, Geometry

from nionswift_plugin.stem_ae_ui import atoms_model, ejection_texts, parts
from nionswift_plugin.stem_ae_ui.fitted import (
    ELLIPSIS,
    LEAST_CONTRAST,
    FittedInterface,
    color_list,
    contrast,
    fit_lines,
    legible,
    shorten,
    shorten_apart,
    wrapped_tip,
)

words = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=120)


@given(words, st.integers(3, 40), st.integers(1, 4))
def test_lines_are_never_wider_nor_more_than_there_is_room_for(text, width, lines):
    shown, whole = fit_lines(text, width, lines, len)
    assert len(shown.splitlines()) <= lines
    assert all(len(line) <= width for line in shown.splitlines())
    letters = "".join(text.split())
    assert "".join(shown.split()) == letters if whole else shown.endswith(ELLIPSIS)


@given(words, st.integers(3, 40))
def test_enough_lines_hold_every_text(text, width):
    shown, whole = fit_lines(text, width, len(text) + 1, len)
    assert whole
    assert "".join(shown.split()) == "".join(text.split())


def test_a_path_is_broken_where_the_line_ends():
    assert fit_lines("/a/very/long/path", 8, 3, len) == ("/a/very/\nlong/pat\nh", True)


@given(words, st.integers(3, 60))
def test_a_shortened_name_fits_and_keeps_both_ends(name, width):
    short = shorten(name, width, len)
    assert len(short) <= width
    if short != name:
        start, end = short.split(ELLIPSIS, 1) if name.count(ELLIPSIS) == 0 else ("", "")
        assert name.startswith(start)
        assert name.endswith(end)


names = st.lists(st.text("ab-2", min_size=1, max_size=40), min_size=2, max_size=6, unique=True)


@given(names, st.integers(12, 30))
@example(["mos2-20260203-101530", "mos2-20260203-101531"], 12)
@example(["mos2-60kV-first-adapted-to-today", "mos2-60kV-other-adapted-to-today"], 14)
def test_different_names_never_look_the_same(names, width):
    short = shorten_apart(names, width, len)
    assert all(len(form) <= width for form in short)
    assert len(set(short)) == len(names)


COLORS = [parts.INK, parts.QUIET, parts.CAREFUL, *(
    value for module in (atoms_model, ejection_texts) for value in vars(module).values()
    if isinstance(value, str) and value.startswith("#")
)]  # fmt: skip


@pytest.mark.parametrize(("is_dark", "ground"), [(False, (239, 239, 239)), (True, (49, 54, 59))])
def test_what_the_panels_say_can_be_read_on_both_themes(is_dark, ground):
    for color in COLORS:
        rgb = Color.Color(legible(color, is_dark)).to_rgb_255()
        assert contrast(rgb, ground) >= LEAST_CONTRAST, color
        before, after = (colorsys.rgb_to_hls(*(v / 255 for v in c)) for c in (Color.Color(color).to_rgb_255(), rgb))
        if before[2] > 0.1:
            assert after[0] == pytest.approx(before[0], abs=0.03), "another hue"


def test_contrast_is_that_of_wcag():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21.0)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # the well-known #777


def test_tips_have_lines_of_a_readable_length():
    tip = wrapped_tip("Train the model further on the frame that is shown. " * 5)
    assert max(map(len, tip.splitlines())) <= 64
    assert wrapped_tip(tip) == tip


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("is_dark", [False, True])
def test_a_line_of_a_list_can_be_read_on_both_themes(is_dark, selected):
    widget = Widgets.StringListWidget(TestUI.UserInterface(), ["vacancy at 3.1 nm", "Si"])
    color_list(widget, not is_dark)
    color_list(widget, is_dark)
    context = DrawingContext.DrawingContext()
    rect = Geometry.IntRect.from_tlbr(0, 0, 20, 300)
    widget._ListWidget__list_canvas_item_delegate.paint_item(context, "vacancy at 3.1 nm", rect, selected)
    canvas = widget._ListWidget__canvas_widget.canvas_item
    color, ground, texts = "", canvas.canvas_items[0].background_color, []
    for command in context.commands:
        if command[0] == "fillStyle":
            color = command[1]
        elif command[0] == "fill":
            ground = color
        elif command[0] == "fillText":
            texts.append(command[1])
            assert contrast(*(Color.Color(one).to_rgb_255() for one in (color, ground))) >= LEAST_CONTRAST
    assert texts == ["vacancy at 3.1 nm"]
    assert sum(isinstance(item, CanvasItem.BackgroundCanvasItem) for item in canvas.canvas_items) == 1
    widget.close()


# --- widgets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ui():
    return FittedInterface(TestUI.UserInterface())


def resize(widget, width, height):
    widget._behavior._inner.size = Geometry.IntSize(width=width, height=height)


def test_a_combo_box_chooses_by_whole_names_whatever_it_shows(ui):
    names = [f"mos2-20260203-{time}-adapted-to-a-frame-at-60-kV" for time in ("101530", "101531", "101532")]
    combo = ui.create_combo_box_widget(names)
    chosen = []
    combo.on_current_index_changed = chosen.append
    resize(combo, 160, 20)
    ui.fit()
    combo.current_index = 2
    assert combo.current_item == names[2]
    assert combo._behavior.current_text == names[2]
    shown = combo._behavior._inner.current_text
    assert ELLIPSIS in shown
    assert shown != names[2]
    combo._behavior._inner.current_text = combo._behavior._short[1]
    combo._behavior._inner.on_current_text_changed(combo._behavior._short[1])  # as a user does
    assert combo.current_item == names[1]
    assert combo.current_index == 1
    assert chosen[-1] == 1
    assert names[1] in combo._behavior._inner.tool_tip.replace("\n", "")
    resize(combo, 2000, 20)
    ui.fit()
    assert combo._behavior._inner.current_text == names[1]
    assert chosen[-1] == 1


def test_a_label_with_a_height_keeps_it_and_says_the_rest_in_its_tip(ui):
    label = ui.create_label_widget(None, {"height": 32})
    label.tool_tip = "What this is"
    resize(label, 100, 32)
    label.text = "Some words " * 20
    shown = label._behavior._inner.text
    assert shown.rstrip().endswith(ELLIPSIS)
    assert len(shown.splitlines()) <= 2
    assert label.text == "Some words " * 20
    assert "Some words" in label._behavior._inner.tool_tip
    assert "What this is" in label._behavior._inner.tool_tip
    label.text = "Few"
    assert label._behavior._inner.text.rstrip() == "Few"
    assert label._behavior._inner.tool_tip == "What this is"
