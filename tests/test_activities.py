"""Long tasks appear in Swift's Activity panel after two seconds, show the time left, and always disappear."""

import contextlib
import threading
import time

import numpy as np
import pytest

pytest.importorskip("nion.swift", reason="needs Nion Swift")

from nion.swift.model import Activity
from nion.swift.test import TestContext

from nionswift_plugin.stem_ae_ui import activities, adapting_model, networks_model
from nionswift_plugin.stem_ae_ui.activities import Work, Works
from stem_ae.elit import live


@pytest.fixture
def shown(monkeypatch):
    """Return what an Activity panel would show, at any time; it shows what takes a tenth of a second."""
    monkeypatch.setattr(activities, "PATIENCE_S", 0.1)
    there, lock = [], threading.Lock()

    def append(activity):
        with lock:
            there.append(activity)

    def finish(activity):
        with lock:
            there.remove(activity)  # Swift's panel stops working for good if it is not there

    listeners = [Activity.activity_appended_event.listen(append), Activity.activity_finished_event.listen(finish)]
    yield lambda: [activity.displayed_title for activity in list(there)]
    for listener in listeners:
        listener.close()


def until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_done_soon_is_never_shown(shown, monkeypatch):
    monkeypatch.setattr(activities, "PATIENCE_S", 3600.0)
    work = Work("Building the structure")
    assert shown() == []
    work.end()
    work.end()
    assert shown() == []


def test_what_takes_long_is_shown_with_progress_and_time_left_until_it_ends(shown):
    work, told = Work("Adapting"), []
    listener = work.property_changed_event.listen(told.append)
    until(shown)
    assert shown() == ["Adapting"]
    work.tell("", 40.0)
    assert shown() == ["Adapting: 40 s left"]
    work.tell("3 of 9 targets", 240.0)
    assert shown() == ["Adapting: 3 of 9 targets, 4 min left"]
    work.tell("3 of 9 targets", 240.0)
    assert told == ["displayed_title"] * 2
    work.tell_done(0.0, "0 of 9 targets")
    assert shown() == ["Adapting: 0 of 9 targets"]  # nobody knows yet
    work.end()
    work.end()
    assert shown() == []
    listener.close()


def test_it_goes_away_from_whichever_thread_and_whenever_it_is_ended(shown):
    for wait_s in np.linspace(0.08, 0.12, 20):  # about when it appears
        work = Work("Adapting")
        ends = [threading.Thread(target=work.end) for _ in range(3)]
        time.sleep(wait_s)
        for thread in ends:
            thread.start()
        for thread in ends:
            thread.join()
    time.sleep(0.2)
    assert shown() == []


def test_a_panel_has_one_of_each_and_takes_them_all_with_it(shown):
    works = Works()
    works.begin("Building the structure")
    until(shown)
    works.begin("Building the structure")
    assert shown() == []  # the new one has not taken long yet
    works.keep("Ejecting", True)
    kept = works.keep("Ejecting", True)
    until(lambda: len(shown()) == 2)
    assert works.keep("Ejecting", False) is None
    kept.tell("too late")
    assert shown() == ["Building the structure"]
    works.close()
    assert shown() == []


class Window:
    """Does what it is asked to do when told."""

    def __init__(self):
        self.tasks = {}

    def add_task(self, name, task):
        self.tasks[name] = task

    def clear_task(self, name):
        self.tasks.pop(name, None)

    def work(self):
        for name in list(self.tasks):
            self.tasks.pop(name)()


@pytest.mark.parametrize("ending", ["error", "cancel", "close"])
def test_adapting_is_shown_with_the_time_left_until_its_end(shown, monkeypatch, ending):
    class Adaptation:
        """Adapts for as long as the test says."""

        def __init__(self, name, frames, sampling, changed):
            self.state, self.text, self.fraction, self.seconds_left, self.comparison = "running", "", 0.3, 40.0, None
            made.append(self)

        def cancel(self):
            self.state, self.text = "cancelled", "cancelled"

    made = []
    monkeypatch.setattr(adapting_model, "Adaptation", Adaptation)
    result = type("Result", (), {"pixels": np.zeros((8, 8)), "sampling": live.Sampling((0.1, 0.1), "typed")})
    window = Window()
    model = adapting_model.AdaptingModel(window, lambda: ("graphene", result), lambda name: None)
    model.start()
    model._AdaptingModel__changed(made[0])
    window.work()
    until(shown)
    assert shown() == ["Adapting: 40 s left"]
    if ending == "close":
        model.close()
    else:
        if ending == "cancel":
            model.cancel()
        else:
            made[0].state, made[0].text = "failed", "no memory"
        model._AdaptingModel__changed(made[0])
        window.work()
    assert shown() == []
    with contextlib.suppress(Exception):
        model.close()


def test_checking_the_networks_ends_when_nothing_is_looked_at_any_more(shown):
    waiting = []
    worker = type("Worker", (), {"between_frames": lambda self, work: waiting.append(work)})()
    model = networks_model.NetworksModel(Window(), lambda: (worker, None), lambda: None)
    model.check()
    until(shown)
    assert shown() == ["Checking the networks"]
    model.give_up()  # the panel was stopped: nobody will do what waits
    assert shown() == []
    model.check()
    until(shown)
    waiting[-1](None)  # something else than an ensemble of networks is at work
    assert shown() == []


def test_swifts_own_panel_shows_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(activities, "PATIENCE_S", 0.05)
    from nion.swift import ActivityPanel

    _setup = TestContext.TestSetup()
    with TestContext.create_memory_context() as context:
        window = context.create_document_controller()
        controller = ActivityPanel.ActivityController(window)

        def pumped(condition):
            def look():
                window.periodic()
                return condition()

            until(look)

        work = Work("Adapting")
        pumped(lambda: [item.displayed_title for item in controller.activities.items] == ["Adapting"])
        work.end()
        pumped(lambda: not controller.activities.items)
        controller.close()
