"""Labels along a line: none overlaps, their order is kept, and they move as little as can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.optimize import minimize

from mdlbench.console.labels import End, label_ends, label_limits, spread

WANTED = st.lists(st.floats(-1.0, 2.0), min_size=1, max_size=15)


@given(WANTED, st.floats(0.001, 0.2))
def test_labels_do_not_overlap_keep_their_order_and_stay_within(wanted, size):
    found = spread(wanted, size, 0.0, 1.0)
    room = min(size, 1.0 / len(wanted))
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(found[order]) >= room - 1e-9).all()
    assert found.min() >= room / 2 - 1e-9
    assert found.max() <= 1.0 - room / 2 + 1e-9


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20, unique=True))
def test_labels_with_room_stay_where_they_are_wanted(places):
    wanted = [0.025 + 0.0475 * place for place in places]
    np.testing.assert_allclose(spread(wanted, 0.0474, 0.0, 1.0), wanted, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_of_squared_moves_is_the_least(seed):
    wanted = np.sort(np.random.default_rng(seed).uniform(0, 1, 6))
    size = 0.12
    found = spread(wanted, size, 0.0, 1.0)
    solved = minimize(
        lambda x: ((x - wanted) ** 2).sum(),
        np.linspace(size / 2, 1 - size / 2, 6),
        bounds=[(size / 2, 1 - size / 2)] * 6,
        constraints={"type": "ineq", "fun": lambda x: np.diff(x) - size},
        tol=1e-12,
    )
    np.testing.assert_allclose(found, solved.x, atol=1e-4)


def test_nothing_is_spread_to_nothing():
    assert spread([], 0.1, 0.0, 1.0).tolist() == []


def panel():
    figure = Figure(figsize=(4, 3))
    ax = figure.add_axes((0.2, 0.2, 0.5, 0.6))
    ax.set_yscale("log")
    ax.set_xlim(0, 100)
    ax.set_ylim(0.01, 1)
    return ax


def test_names_stand_beside_the_ends_in_their_colours():
    ax = panel()
    label_ends(ax, [End(50, 0.1, "one", "#0072B2"), End(100, 0.11, "two", "#009E73")])
    one, two = ax.texts
    assert (one.get_text(), one.get_color()) == ("one", "#0072B2")
    assert one.xy[1] < two.xy[1]
    assert one.xy[1] == pytest.approx(0.5, abs=0.06)
    leaders = [line for line in ax.lines if line.get_color() == "#0072B2"]
    assert leaders[0].get_xdata()[0] == pytest.approx(0.5)
    assert leaders[-1].get_ydata()[-1] == one.xy[1]


def test_tolerances_that_are_drawn_again_are_drawn_among_the_others():
    ax = panel()
    label_limits(ax, [0.1, 0.5])
    label_limits(ax, [0.1, 0.2, 5.0])
    assert [text.get_text() for text in ax.texts] == ["ε = 0.1", "ε = 0.2", "ε = 0.5"]
    assert [line.get_ydata()[0] for line in ax.lines] == [0.1, 0.2, 0.5]
