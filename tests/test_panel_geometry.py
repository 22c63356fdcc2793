"""The panels in the real Nion Swift on screens of three sizes, light and dark: nothing is cut, nothing moves."""

import importlib.util
import pathlib
import sys

import pytest

from stem_ae.launch import display, process

pytestmark = [
    pytest.mark.gui,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has Xvfb"),
]
ARRANGEMENTS = ["all", "Atoms and Explorer", "Atoms", "Explorer", "Eject", "Simulate", "Jobs", "tabbed"]


def dark(folder):
    """Return the environment variables of a dark window."""
    path = pathlib.Path(__file__).parent / "scenarios" / "dark_theme.py"
    spec = importlib.util.spec_from_file_location("dark_theme", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.environment(folder)


@pytest.mark.parametrize(("size", "is_dark"), [((1280, 800), False), ((1760, 990), True), ((2560, 1440), False)])
def test_every_panel_fits_with_any_texts(size, is_dark, tmp_path, monkeypatch):
    with display.virtual_display(size) as screen:
        variables = {"DISPLAY": screen, "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}
        variables |= dark(tmp_path / "theme") if is_dark else {}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        rows = process.run_scenario(
            "geometry_scenarios:measure", tmp_path / "swift", virtual=False, timeout_s=120, arrangements=ARRANGEMENTS
        )
    assert len(rows) == 2 * len(ARRANGEMENTS)
    assert [text for row in rows for text in row["complaints"]] == []
    assert all(tuple(row["window"]) == size for row in rows)
