"""The Eject panel in the real Nion Swift under Xvfb: a row of vacancies, Stop, and a window that closes."""

import json
import sys
import time

import pytest

from stem_ae import StemAeError
from stem_ae.launch.process import run_scenario
from stem_ae.manipulate import runlog

pytestmark = [pytest.mark.gui, pytest.mark.slow]


def run(name, folder, **options):
    return run_scenario(
        f"ejection_scenarios:{name}", folder / "swift", virtual=sys.platform == "linux", timeout_s=240,
        data=str(folder / "data"), **options,
    )  # fmt: skip


def test_a_row_of_vacancies_is_drawn_in_the_real_application(tmp_path):
    said = run("eject", tmp_path, picture=str(tmp_path / "screen.png"))
    assert said["blanked"]
    assert said["chosen"] == 6
    assert said["message"].startswith("Run")
    # How many it is, is the benchmark's business: a busy machine may lose sight of the specimen, and says so. But what
    # is called done has lost its sulphur.
    assert set(said["left"]) <= {"S"}
    done = said["states"].count("done")
    assert 1 <= done <= len(said["left"])
    assert "a neighbour is lost in" in said["estimate"]
    assert (tmp_path / "screen.png").stat().st_size > 10_000
    (log,) = (tmp_path / "data").glob("*/ejections.jsonl")
    exposures = runlog.exposures(log)
    assert all(exposure.complete for exposure in exposures)
    assert any(exposure.replay().outcome == "one step" for exposure in exposures)


def test_a_run_in_which_swift_was_killed_is_offered_to_the_next_one_and_goes_on(tmp_path, monkeypatch):
    records = tmp_path / "records"
    monkeypatch.setenv("STEM_AE_WATCHDOG_RECORDS", str(records))
    monkeypatch.setenv("STEM_AE_RUNS", str(tmp_path / "data"))  # the panel looks there as soon as it is made
    with pytest.raises(StemAeError, match="exit code -9"):
        run("die", tmp_path)
    end = time.monotonic() + 10
    while not list(records.glob("*.json")) and time.monotonic() < end:
        time.sleep(0.05)
    (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in records.glob("*.json"))
    assert record["blanked"]
    assert "program has ended" in record["reason"]
    (log,) = (tmp_path / "data").glob("*/ejections.jsonl")
    spent = runlog.spent(log)
    assert len(spent.exposures) >= 2
    said = run("go_on", tmp_path, picture=str(tmp_path / "offer.png"))
    assert said["offer"].startswith("Continue the run of")
    assert "1 of 3 done" in said["offer"]
    assert sorted(said["states"]) == ["done", "unclear", "waiting"], said
    assert said["dose"].startswith(f"{spent.electrons:.2e} of"), (said["dose"], spent.electrons)
    assert said["again"], said
    assert said["states"].index("done") not in said["again"]
    assert said["blanked"]
    assert said["status"].startswith("Unclear: target"), said
    assert not list(records.glob("*.json"))  # told


def test_stop_and_a_closing_window_blank_the_beam(tmp_path):
    said = run("stop_and_close", tmp_path)
    assert said["blanked"]
    assert said["seconds"] < 0.1
    assert said["blanked_after_closing"]
    for log in (tmp_path / "data").glob("*/ejections.jsonl"):
        assert all(exposure.complete for exposure in runlog.exposures(log))
