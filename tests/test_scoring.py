from __future__ import annotations

import numpy as np
import pytest

from stem_ae import Atoms2D
from stem_ae.scoring import score


def found_at(positions: list[tuple[float, float]], labels: list[int]) -> Atoms2D:
    n = len(positions)
    probabilities = np.eye(2)[labels]
    return Atoms2D(
        np.array(positions), np.tile(np.eye(2) * 0.01, (n, 1, 1)), np.array(labels), ("C", "Si"), probabilities,
        np.ones(n), (101, 101), 0.2,
    )


def test_a_case_that_can_be_counted_by_hand() -> None:
    truth = [(5.0, 5.0), (8.0, 5.0), (11.0, 5.0), (14.0, 5.0), (5.0, 0.2)]
    names = ["C", "C", "Si", "Si", "C"]
    # Right; right place with the wrong class; right; a double beside it; nothing there; one at the border.
    atoms = found_at([(5.1, 5.0), (8.0, 5.2), (11.0, 4.9), (11.3, 5.1), (10.0, 15.0), (15.0, 0.1)], [0, 1, 1, 0, 0, 0])
    result = score(atoms, truth, names)
    assert result.recall == pytest.approx(3 / 5)
    assert result.precision == pytest.approx(3 / 5)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.rmse == pytest.approx(np.sqrt((0.1**2 + 0.2**2 + 0.1**2) / 6))
    assert result.of_class("Si") == pytest.approx((1.0, 0.5, 2 / 3))
    inner = score(atoms, truth, names, edge=1.0)
    assert inner.recall == pytest.approx(3 / 4)
    assert inner.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_nothing_found_and_nothing_there() -> None:
    nothing = Atoms2D.empty(("C", "Si"), (101, 101), 0.2)
    assert score(nothing, [(5.0, 5.0)], ["C"]).recall == 0
    assert score(nothing, np.zeros((0, 2)), []).recall == 1
    assert np.isnan(score(nothing, [(5.0, 5.0)], ["C"]).rmse)
    ghosts = score(found_at([(5.0, 5.0)], [0]), np.zeros((0, 2)), [])
    assert ghosts.precision == 0
