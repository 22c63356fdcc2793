"""Buttons and faults in any order: at the end the beam is blanked and shown so, or the alarm stands."""

from __future__ import annotations

import pytest

pytest.importorskip("nion.instrumentation")
pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.ejection_states import machine


@pytest.mark.slow
def test_whatever_is_pressed_and_goes_wrong_the_beam_is_off_or_the_alarm_stands():
    with machine() as panel:
        run_state_machine_as_test(
            panel,
            settings=settings(
                max_examples=20, stateful_step_count=8, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            ),
        )  # fmt: skip
        assert panel.counts["runs"] >= 10
        assert panel.counts["ends with the alarm"] >= 1
        assert panel.counts["ends blanked"] >= 10
