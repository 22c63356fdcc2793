"""What every test of the real application needs."""

import importlib.util
import os
import pathlib
import shutil
import sys

import pytest


@pytest.fixture(autouse=True)
def own_preferences():
    """Let no test see what another one has chosen in the preferences."""
    names = [f"STEM_AE_{name}" for name in ("RUNS", "QUEUE", "MODELS", "DEVICE", "THREADS")]
    before = {name: os.environ.get(name) for name in names}
    yield
    if preferences := sys.modules.get("nionswift_plugin.stem_ae_ui.preferences"):
        preferences.Preferences().store()
        preferences.end()
    for name, value in before.items():
        if value is not None:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def real_application(request, monkeypatch):
    """Make the scenarios importable in Swift; where its window cannot be shown, skip, but never in CI."""
    if request.node.get_closest_marker("gui") is None:
        return
    missing = [
        what
        for what, there in (
            ("Nion Swift", importlib.util.find_spec("nion") is not None),
            ("Xvfb", sys.platform != "linux" or shutil.which("Xvfb") is not None),
        )
        if not there
    ]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{' and '.join(missing)} not installed")
    folder = str(pathlib.Path(__file__).parent / "scenarios")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
