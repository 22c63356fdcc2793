"""Child processes: they import nothing from the current folder, and nobody waits for one that hangs."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import ase.build
import numpy as np
import pytest

from stem_ae import processes, simulate
from stem_ae.elit.adapting import Adaptation
from stem_ae.elit.remote import PredictionProcess
from stem_ae.errors import StemAeError
from stem_ae.explore.remote import DecisionProcess
from stem_ae.jobs.executors import LocalExecutor
from stem_ae.jobs.remote import Workbench
from stem_ae.launch.process import swift_environment

HOME = pathlib.Path(__file__).parents[1]
NAMES = (
    "dbos", "numpy", "torch", "sitecustomize", "usercustomize", "filelock", "sqlalchemy", "safetensors", "ase", "scipy",
    "platformdirs", "runpy", "json", "site",
)  # fmt: skip
"""Of files that a stranger may have left beside the data."""

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture
def strange_folder(tmp_path, monkeypatch):
    """The current folder, full of files that say so when they are run, which nobody may do."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOME), "", "."]))  # as careless set-ups leave it
    yield folder
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


def until(condition, what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


# --- what lies in the current folder ----------------------------------------------------------------------------------


def test_companions_import_nothing_from_the_current_folder(strange_folder):
    finding, deciding, building = PredictionProcess(), DecisionProcess(), Workbench(str(strange_folder / "queue"))
    answers: list[object] = []
    building.ask({"do": "engines"}, answers.append)
    try:
        deciding.ready().result(90)
        assert len(finding.load("graphene")) == 5
        until(lambda: answers, "the engines")
        assert answers[0].error == ""
    finally:
        finding.close()
        deciding.close()
        building.close()


def test_adapting_imports_nothing_from_the_current_folder(strange_folder):
    adaptation = Adaptation("no such model", [np.ones((64, 64))], (0.1, 0.1), lambda _: None)
    adaptation.wait(90)
    assert "choose one of" in adaptation.text  # it came as far as looking for the model


def test_the_command_line_its_worker_and_its_calculation_import_nothing_from_the_current_folder(
    strange_folder, monkeypatch
):
    pytest.importorskip("dbos")
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    ase.build.bulk("Cu", cubic=True).write("cu.extxyz")
    command = ["-m", "stem_ae", "simulate", "relax", "cu.extxyz", "--engine", "emt", "--queue", "queue", "--wait"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120)
    assert "finished" in done.stdout, done.stderr


def test_a_calculation_imports_nothing_from_the_current_folder(strange_folder):
    folder = strange_folder / "calculation"
    calculation = simulate.Calculation.create(folder, simulate.tasks.to_dict(simulate.Command("true")), None, {})
    executor = LocalExecutor()
    assert executor.start(folder)
    until(lambda: not executor.alive(folder), "its end")
    assert calculation.finished, calculation.log()


def test_swift_is_told_no_relative_place(strange_folder):
    assert all(map(os.path.isabs, swift_environment(simulate=False)["PYTHONPATH"].split(os.pathsep)))


# --- what hangs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(processes, "_SILENT_S", 2.5)


def stopped(companion: processes.Companion) -> int:
    """Stop a process as a debugger would, and return its number."""
    assert companion.pid is not None
    os.kill(companion.pid, signal.SIGSTOP)
    return companion.pid


@needs_signals
def test_prediction_that_hangs_is_ended_with_a_sentence_and_the_next_frame_starts_it_again(impatient):
    process = PredictionProcess()
    image = np.random.default_rng(0).poisson(5.0, (96, 96)).astype(np.float32)
    try:
        ensemble = process.load("graphene")
        for frame in (image, np.tile(image, (30, 30))):  # one that fits into the pipe, one that does not
            ensemble.predict(image, (0.1, 0.1))
            first = stopped(process._process)
            start = time.monotonic()
            with pytest.raises(StemAeError, match="gave no sign of life for 2 s and was ended: it is started again"):
                ensemble.predict(frame, (0.1, 0.1))
            assert time.monotonic() - start < 20
            assert process._process.pid is None
        ensemble.predict(image, (0.1, 0.1))
        assert process._process.pid not in (None, first)
    finally:
        process.close()


@needs_signals
def test_decision_and_workbench_that_hang_are_ended_with_a_sentence_and_started_again(impatient, tmp_path):
    deciding, building = DecisionProcess(), Workbench(str(tmp_path))
    answers: list[object] = []
    try:
        deciding.ready().result(90)
        stopped(deciding._process)
        with pytest.raises(StemAeError, match="decides where to measure gave no sign of life"):
            deciding.step().result(60)
        deciding.ready().result(90)
        building.ask({"do": "engines"}, answers.append)
        until(lambda: answers, "the engines")
        stopped(building._process)
        building.ask({"do": "engines"}, answers.append)
        until(lambda: len(answers) == 2, "the sentence")
        assert "gave no sign of life" in answers[1].error
        building.ask({"do": "engines"}, answers.append)
        until(lambda: len(answers) == 3, "the engines again")
        assert answers[2].error == ""
    finally:
        deciding.close()
        building.close()


@needs_signals
def test_adapting_that_hangs_ends_with_a_sentence(impatient):
    image = np.random.default_rng(0).poisson(5.0, (256, 256)).astype(np.float32)
    adaptation = Adaptation("graphene", [image], (0.1, 0.1), lambda _: None)
    until(lambda: adaptation._process._was_heard, "a sign of life")
    stopped(adaptation._process)
    adaptation.wait(30)
    assert adaptation.state == "failed"
    assert "gave no sign of life" in adaptation.text



def test_long_work_is_not_taken_for_hanging(impatient, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom stem_ae import processes\n"
        "processes.serve(lambda request, arrays: (time.sleep(request['for']), ({'done': True}, {}))[1])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    companion = processes.Companion("slow", "is slow", "wait")
    try:
        assert companion.ask({"for": 0.0})[0] == {"done": True}
        assert companion.ask({"for": 6.0})[0] == {"done": True}
    finally:
        companion.close()


@needs_signals
def test_a_process_that_hangs_before_it_is_ready_is_given_up_too(monkeypatch):
    monkeypatch.setattr(processes, "_STARTING_S", 1.0)
    companion = processes.Companion("stem_ae.elit.serve", "finds the atoms", "try again")
    companion.start()
    stopped(companion)
    with pytest.raises(StemAeError, match="gave no sign of life for 1 s"):
        companion.ask({"do": "load"}, {"big": np.zeros(4_000_000)})
    companion.close()
