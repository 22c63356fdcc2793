"""The preferences, without a screen: each value reaches those who need it, and bad ones are refused in a sentence."""

import asyncio
import json
import os
import pathlib
import sys
import webbrowser

import numpy as np
import pytest

pytest.importorskip("nion.swift", reason="needs Nion Swift")

from nion.swift.model import ApplicationData
from nion.ui import PreferencesDialog, TestUI

from nionswift_plugin.stem_ae_ui import menu, preferences
from nionswift_plugin.stem_ae_ui.preferences import DEVICES, PaneHandler, Preferences
from stem_ae import folders, processes
from stem_ae.elit.remote import PredictionProcess
from stem_ae.errors import StemAeError
from stem_ae.explore.remote import DecisionProcess
from stem_ae.jobs.remote import Workbench
from stem_ae.store import models

REPORT = """
import json, os, sys
from stem_ae import processes
from stem_ae.store import models
def answer(request, arrays):
    values = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "STEM_AE_DEVICE")}
    return values | {"models": str(models.user_folder())}, {}
processes.serve(answer)
"""


@pytest.fixture
def pane(monkeypatch):
    for variable in preferences.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    preferences.begin()
    handler = PaneHandler(TestUI.UserInterface())
    yield handler
    handler.close()
    preferences.end()


@pytest.fixture
def reporter(tmp_path, monkeypatch):
    """A process that says what it was started with."""
    (tmp_path / "reporter.py").write_text(REPORT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    companion = processes.Companion("reporter", "reports", "try again")
    yield companion
    companion.close()


def test_folders_are_where_the_pane_says(pane, tmp_path):
    usual = {kind: folders.folder(kind) for kind in folders.VARIABLES}
    for kind in folders.VARIABLES:
        setattr(pane, kind, str(tmp_path / kind))
        assert folders.folder(kind) == tmp_path / kind
        assert (tmp_path / kind).is_dir()
    bench = Workbench()
    assert bench.queue == str(tmp_path / "queue")
    assert models.user_folder() == tmp_path / "models"
    assert models.new_path("mine").parent == tmp_path / "models"
    for kind in folders.VARIABLES:
        setattr(pane, kind, "")
    assert {kind: folders.folder(kind) for kind in folders.VARIABLES} == usual
    assert bench.queue == str(usual["queue"])
    bench.close()


def test_the_next_process_has_device_threads_and_models_of_the_pane(pane, tmp_path, reporter):
    usual = reporter.ask({})[0]
    assert usual["STEM_AE_DEVICE"] is None
    assert usual["OMP_NUM_THREADS"] == preferences.usual("threads")
    pid = reporter.pid
    reporter.renew()
    assert reporter.pid == pid  # nothing has changed
    pane.device_index, pane.threads, pane.models = DEVICES.index("cpu"), "1", str(tmp_path / "mine")
    assert reporter.ask({})[0] == usual  # what runs goes on
    reporter.renew()
    assert reporter.ask({})[0] == {
        "OMP_NUM_THREADS": "1", "STEM_AE_DEVICE": "cpu", "models": str(tmp_path / "mine"),
    }  # fmt: skip


def test_a_gpu_that_is_not_there_is_said_when_the_model_is_loaded(pane):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    process = PredictionProcess()
    try:
        pane.device_index = DEVICES.index("cuda")
        with pytest.raises(StemAeError, match="cannot compute on 'cuda' here: choose the device"):
            process.load("graphene")
        pane.device_index = 0
        assert process.load("graphene").name == "graphene"  # by a new process, which it needs not be told
    finally:
        process.close()


def test_the_surrogate_computes_where_and_with_as_many_threads_as_the_pane_says(pane):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((40, 40))
    process = DecisionProcess()

    def threads_of_its_process():
        given = pathlib.Path(f"/proc/{process._process.pid}/environ").read_bytes().split(b"\0")
        return next(one for one in given if one.startswith(b"OMP_NUM_THREADS="))

    try:
        pane.device_index, pane.threads = DEVICES.index("cpu"), "1"
        assert len(process.explore(image, {}).result())
        if sys.platform == "linux":
            assert threads_of_its_process() == b"OMP_NUM_THREADS=1"
        pane.device_index = DEVICES.index("cuda")  # heeded by the next experiment
        if torch.cuda.is_available():
            assert len(process.explore(image, {}).result())
        else:
            with pytest.raises(StemAeError, match="cannot compute on 'cuda' here: choose the device"):
                process.explore(image, {}).result()
            assert len(process.explore(image, {"device": "cpu"}).result())  # an experiment's own choice counts for more
    finally:
        process.close()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("threads", "0", "is not a number of threads"),
        ("threads", "many", "is not a number of threads"),
        ("threads", "99999", "is not a number of threads"),
        ("threads", "²", "is not a number of threads"),
        ("runs", "somewhere/else", "is not a complete path"),
        ("queue", "{file}/queue", "Cannot write to the folder"),
        ("models", "{file}", "Cannot write to the folder"),
        ("runs", "/\0", "Cannot write to the folder"),
    ],
)
def test_what_cannot_be_used_is_refused_in_the_pane(pane, tmp_path, name, text, complaint):
    file = tmp_path / "file"
    file.write_text("")
    setattr(pane, name, text.format(file=file))
    assert complaint in pane.complaint
    assert getattr(pane, name) == ""
    assert preferences.VARIABLES[name] not in os.environ
    pane.threads = "1"
    assert pane.complaint == ""


def test_they_are_kept_for_the_next_start(pane, tmp_path, monkeypatch):
    stored = {}
    monkeypatch.setattr(ApplicationData, "get_data", lambda: json.loads(json.dumps(stored)))
    monkeypatch.setattr(ApplicationData, "set_data", stored.update)
    pane.runs, pane.threads = str(tmp_path / "runs"), "1"
    preferences.end()
    assert "STEM_AE_RUNS" not in os.environ
    monkeypatch.setenv("STEM_AE_THREADS", "7")  # the preference counts for more
    preferences.begin()
    assert (os.environ["STEM_AE_RUNS"], os.environ["STEM_AE_THREADS"]) == (str(tmp_path / "runs"), "1")
    pane.threads = ""
    assert os.environ["STEM_AE_THREADS"] == "7"
    stored[preferences.KEY] = {"runs": 3, "unknown": "x", "threads": "2"}  # of another version
    assert Preferences.stored() == Preferences(threads="2")
    stored[preferences.KEY] = "nonsense"
    assert Preferences.stored() == Preferences()


def test_open_runs_folder_opens_the_chosen_one(pane, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    pane.runs = str(tmp_path / "my runs")
    menu.open_runs()
    assert opened == [(tmp_path / "my runs").as_uri()]


def test_swift_opens_the_preferences_at_our_page_and_keeps_its_order(pane):
    manager = PreferencesDialog.PreferencesManager()
    ours, order = preferences.page(), list(manager.preference_pane_delegates)
    manager.register_preference_pane(ours)
    opened = []

    class Window:
        def open_preferences(self):
            opened.extend(manager.preference_pane_delegates)

    try:
        preferences.show(Window())
        assert opened[0] is ours
        assert set(opened) == {*order, ours}
        assert manager.preference_pane_delegates == [*order, ours]
    finally:
        manager.unregister_preference_pane(ours)


def test_choose_takes_a_folder_and_cancelling_keeps_it(pane, tmp_path, monkeypatch):
    answers = [str(tmp_path / "a"), ""]
    monkeypatch.setattr(
        TestUI.UserInterface, "get_existing_directory_dialog", lambda self, title, folder: (answers.pop(0), folder),
        raising=False,
    )  # fmt: skip
    for _ in range(2):
        pane.choose_queue_clicked(None)
        assert pane.queue == str(tmp_path / "a")


def test_the_page_can_be_built(pane):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # as Swift does
    try:
        preferences.page().build(TestUI.UserInterface(), event_loop=loop).close()
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert pathlib.Path(preferences.usual("runs")).name == "runs"
