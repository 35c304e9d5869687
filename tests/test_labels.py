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


def leaders(ax):
    """The lines from the panel's edge to the names."""
    return [line for line in ax.lines if line.get_xdata()[-1] > 1 and len(line.get_xdata()) == 2]


def test_a_way_to_a_name_has_the_dashes_of_its_line_and_does_not_cross_another():
    ax = panel()
    heights = [0.5, 0.101, 0.1, 0.102, 0.1]
    ends = [End(100, y, f"line {i}", "#0072B2", dash="-.") for i, y in enumerate(heights)]
    label_ends(ax, ends, gap=36)
    assert [text.xy[0] for text in ax.texts] == pytest.approx([1 + 36 / 72 / 2] * 5)
    assert [line.get_linestyle() for line in leaders(ax)] == ["-."] * 5
    ways = sorted(tuple(line.get_ydata()) for line in leaders(ax))
    arrivals = [arrival for _, arrival in ways]
    assert arrivals == sorted(arrivals)
    assert min(np.diff(arrivals)) > 0.05


def shares_of(ax, text):
    """The place of a text's left end, as shares of the panel."""
    assert text.get_ha() == "left"
    return text.xy


def test_a_tolerance_is_named_in_its_line_at_the_left_where_nothing_else_runs():
    ax = panel()
    ax.plot([50, 100], [1, 0.01])
    label_limits(ax, [0.1])
    assert shares_of(ax, ax.texts[0]) == pytest.approx((4 / 72 / 2, 0.5))


def test_a_tolerance_is_named_right_of_curves_that_run_at_the_left():
    ax = panel()
    ax.plot([0, 40], [1, 0.01])
    ax.plot(42, 0.1, "o")
    label_limits(ax, [0.1])
    assert shares_of(ax, ax.texts[0]) == pytest.approx((0.42 + 4 / 72 / 2, 0.5))


def test_a_tolerance_is_named_over_its_line_where_another_runs_along_it():
    ax = panel()
    ax.plot([0, 100], [0.1, 0.1])
    label_limits(ax, [0.1])
    step = 8 * 1.3 / 72 / 1.8
    assert shares_of(ax, ax.texts[0]) == pytest.approx((4 / 72 / 2, 0.5 + 0.6 * step))


def test_a_name_that_has_room_nowhere_is_behind_the_lines():
    ax = panel()
    for x in range(0, 100, 5):
        ax.plot([x, x], [1, 0.01])
    label_limits(ax, [0.1])
    (name,) = ax.texts
    assert shares_of(ax, name)[1] == pytest.approx(0.5)
    assert name.get_zorder() < min(line.get_zorder() for line in ax.lines[:-1])
    assert name.get_bbox_patch().get_alpha() == 1.0


def test_near_tolerances_are_named_beside_one_another():
    ax = panel()
    label_limits(ax, [0.19, 0.2], bold=[0.19])
    low, high = (shares_of(ax, text) for text in ax.texts)
    assert low == pytest.approx((4 / 72 / 2, np.log(19) / np.log(100)))
    assert high[1] == pytest.approx(np.log(20) / np.log(100))
    assert high[0] > low[0] + 7 * 0.5 * 8 / 72 / 2
    assert [text.get_weight() for text in ax.texts] == ["bold", "normal"]


def test_tolerances_that_are_drawn_again_are_drawn_among_the_others():
    ax = panel()
    label_limits(ax, [0.1, 0.5])
    label_limits(ax, [0.1, 0.2, 5.0])
    assert [text.get_text() for text in ax.texts] == ["ε = 0.1", "ε = 0.2", "ε = 0.5"]
    assert [line.get_ydata()[0] for line in ax.lines] == [0.1, 0.2, 0.5]
