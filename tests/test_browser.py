"""The web page in a headless Chromium: it works, stays silent, and runs nothing of a record."""

import pytest

from mdlbench.report.tables import printable
from tests.browser import (
    PHONE,
    choose_tolerance,
    column,
    curves,
    names,
    skip_without_chromium,
)
from tests.crowd import EVIL

pytest_plugins = ("tests.browser_pages",)
pytestmark = skip_without_chromium


def test_the_headline_s_ranking_is_shown(open_page, board):
    page = open_page("zoo")
    rows = [row for row in board.headline.rows if not row.record.is_baseline]
    assert names(page) == [row.label for row in rows]
    shared = [row.ranking.rank for row in rows]
    expected = [
        "–" if rank is None else f"{rank}=" if shared.count(rank) > 1 else str(rank)
        for rank in shared
    ]
    assert column(page, "rank") == expected
    first = rows[0]
    half = (first.interval[1] - first.interval[0]) / 2
    assert column(page, "bits")[0] == f"{first.result.bits:.2f} ± {half:.2f}"
    assert column(page, "bits")[-1] == "infeasible"
    assert column(page, "floor") == [f"{row.floor:.4g}" for row in rows]
    assert column(page, "l0")[0] == f"{first.result.l0:.2f}"
    assert column(page, "standing")[0] == "submitted"


def test_a_click_on_a_header_sorts_and_another_turns_it_round(open_page, board):
    page = open_page("zoo")
    ranked = [row for row in board.headline.rows if row.status == "ranked"]
    page.click('#headers button[data-key="l0"]')
    by_l0 = sorted(ranked, key=lambda row: row.result.l0)
    assert names(page)[: len(ranked)] == [row.label for row in by_l0]
    assert page.locator("#headers th.l0").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert page.locator("#headers th.l0").get_attribute("aria-sort") == "descending"
    by_l0 = sorted(ranked, key=lambda row: -row.result.l0)
    assert names(page)[: len(ranked)] == [row.label for row in by_l0]
    assert set(column(page, "bits")[len(ranked) :]) == {"infeasible"}
    page.click('#headers button[data-key="sae"]')
    assert names(page) == sorted(names(page))
    assert page.locator("#headers [aria-sort=none]").count() == 11


def test_filters_by_text_and_by_architecture(open_page, zoo):
    page = open_page("zoo")
    page.fill("#filter", "-128-")
    expected = {record.name for record in zoo if "-128-" in record.name}
    assert set(names(page)) == expected
    assert (
        page.locator("#count").inner_text()
        == f"{len(expected)} of {len(zoo) - 2} SAEs and 0 of 2 baselines"
    )
    assert curves(page, "curves") == str(len(expected))
    page.fill("#filter", "")
    page.click('#architectures .chip[data-name="pca"]')
    assert names(page) == []
    assert page.locator("#baselines .name").all_inner_texts() == ["pca"]
    chip = page.locator('#architectures .chip[data-name="pca"]')
    assert chip.get_attribute("aria-pressed") == "true"
    page.click('#architectures .chip[data-name="kmeans"]')
    assert set(page.locator("#baselines .name").all_inner_texts()) == {"pca", "kmeans-1024"}
    page.fill("#filter", "nothing has this name")
    assert names(page) == []
    assert page.locator("#nothing").is_visible()


def test_another_tolerance_has_its_own_ranking(open_page, zoo, board):
    page = open_page("zoo")
    choose_tolerance(page, "delta_ce:0.05")
    table = next(t for t in board.tables if (t.metric, t.epsilon) == ("delta_ce", 0.05))
    trained = [row.label for row in table.rows if not row.record.is_baseline]
    assert names(page) == trained
    assert page.locator("#table-title").inner_text() == "Ranking at ΔCE ≤ 0.05 nats"
    assert curves(page, "metric") == "delta_ce"
    assert page.url.endswith("#at=delta_ce:0.05")


def test_a_click_on_a_row_follows_its_curve_and_opens_its_detail(open_page, zoo):
    page = open_page("zoo")
    assert page.locator("#detail").is_hidden()
    row = page.locator("#rows tr").nth(2)
    row.click()
    id_ = row.get_attribute("data-id")
    record = next(record for record in zoo if record.id == id_)
    assert row.get_attribute("aria-current") == "true"
    assert page.locator('#rows [aria-current="true"]').count() == 1
    assert curves(page, "highlighted") == id_
    assert page.locator("#detail-title").inner_text() == record.name
    detail = page.locator("#detail").inner_text()
    assert f"records/{record.name}-{id_[:12]}.json" in detail
    assert record.identity.coder.weights_sha256 in detail
    page.click("#clear")
    assert page.locator("#detail").is_hidden()
    assert curves(page, "highlighted") == ""


def test_the_keyboard_is_enough(open_page):
    page = open_page("zoo")
    page.locator("#rows .name").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#rows tr").nth(1).get_attribute("aria-current") == "true"


def test_metric_and_axes_of_the_plot(open_page):
    page = open_page("zoo")
    assert [curves(page, name) for name in ("metric", "x-axis", "y-axis")] == [
        "mse",
        "linear",
        "log",
    ]
    page.click("#metric button:has-text('FVU')")
    page.click("#loss-axis button:has-text('linear')")
    page.click("#rate-axis button:has-text('log')")
    assert [curves(page, name) for name in ("metric", "x-axis", "y-axis")] == [
        "fvu",
        "log",
        "linear",
    ]
    assert page.locator("#metric [aria-pressed=true]").inner_text() == "FVU"


def test_a_button_of_the_plot_keeps_the_focus(open_page):
    page = open_page("zoo")
    for group, text in (("metric", "FVU"), ("loss-axis", "linear"), ("rate-axis", "log")):
        button = page.locator(f"#{group} button", has_text=text)
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "true"
        assert page.locator(f"#{group} [aria-pressed=true]").count() == 1
        assert button.evaluate("node => node === document.activeElement")


def test_every_operating_point_can_be_read(open_page, zoo, board):
    page = open_page("zoo")
    row = board.headline.rows[0]
    record = next(record for record in zoo if record.id == row.record.id)
    page.locator("#rows .name").first.click()
    table = page.locator("#detail .points table")
    points = sorted(record.points, key=lambda point: point.step)
    shown = [line.locator("td").all_inner_texts() for line in table.locator("tbody tr").all()]
    for column_of, values in (
        (1, [point.l0 for point in points]),
        (2, [point.bits.total for point in points]),
    ):
        read = [float(cells[column_of]) for cells in shown]
        assert read == pytest.approx(values, rel=1e-4, abs=0.0051)
    losses = [[float(text.replace("−", "-")) for text in cells[3:6]] for cells in shown]
    assert losses == [
        pytest.approx([point.mse, point.fvu, point.delta_ce], rel=1e-3) for point in points
    ]
    marked = next(i for i, point in enumerate(points) if point.step == row.result.step)
    assert "MSE ≤ 0.015 ★" in shown[marked][6]
    accepted = [line for line in ", ".join(cells[6] for cells in shown).split(", ") if line]
    assert len(accepted) == sum(result.step is not None for result in record.tolerances)
    box = page.locator("#detail .points .scroll")
    assert box.get_attribute("tabindex") == "0"
    assert box.bounding_box()["height"] <= 320


def test_pictures_left_out_are_said_to_be(open_page):
    page = open_page("pictures")
    page.locator("#rows .name").first.click()
    assert page.locator("#detail .pictures img").is_visible()
    page.locator("#rows .name").last.click()
    assert page.locator("#detail .pictures img").count() == 0
    assert "Left out of this page" in page.locator("#detail .pictures").inner_text()


def test_filter_by_standing(open_page):
    page = open_page("zoo")
    assert page.locator("#standings").is_hidden()
    page = open_page("pictures")
    page.click('#standings .chip[data-name="reproduced"]')
    assert names(page) == ["sae-1"]
    assert column(page, "standing") == ["✓ reproduced"]


def test_the_pointer_on_a_curve_says_what_is_there(open_page):
    page = open_page("zoo")
    page.fill("#filter", "batchtopk-512-k40")
    tooltip = page.locator("#curves .tooltip")
    box = page.locator("#curves").bounding_box()
    for across in range(60, int(box["width"]), 12):
        page.mouse.move(box["x"] + across, box["y"] + box["height"] * 0.45)
        if tooltip.is_visible() and "batchtopk" in tooltip.inner_text():
            break
    text = tooltip.inner_text()
    assert "batchtopk-512-k40" in text
    assert "step " in text
    assert "L0 " in text
    assert "bits/token" in text
    assert "MSE 0.0" in text
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#detail-title").inner_text() == "batchtopk-512-k40"


def test_dragging_zooms_and_the_button_resets(open_page):
    page = open_page("zoo")
    box = page.locator("#curves").bounding_box()
    page.mouse.move(box["x"] + 120, box["y"] + 120)
    page.mouse.down()
    page.mouse.move(box["x"] + 320, box["y"] + 260, steps=3)
    page.mouse.up()
    reset = page.locator("#curves .reset")
    assert reset.is_visible()
    reset.click()
    assert reset.is_hidden()


def test_an_address_leads_to_an_sae_at_a_tolerance(open_page, zoo):
    record = zoo[5]
    page = open_page("zoo", fragment=f"#sae={record.id}&at=mse:0.03")
    assert page.locator("#detail-title").inner_text() == record.name
    assert page.locator("#table-title").inner_text() == "Ranking at MSE ≤ 0.03"
    assert page.locator("#detail").evaluate("node => node.getBoundingClientRect().top") < 900


def test_an_unknown_address_shows_the_headline(open_page):
    page = open_page("zoo", fragment="#sae=<script>&at=mse:7")
    assert page.locator("#detail").is_hidden()
    assert page.locator("#table-title").inner_text() == "Ranking at MSE ≤ 0.015"


def test_sites_are_chosen_and_never_mixed(open_page):
    page = open_page("sites")
    assert names(page) == ["at-layer.1"]
    page.select_option("#site", label="layer.2")
    assert names(page) == ["at-layer.2"]
    assert page.url.endswith("#site=1")


def test_a_hostile_record_is_shown_as_text_and_runs_nothing(open_page):
    page = open_page("evil")
    assert names(page) == [printable(EVIL)]
    assert "<script>" in column(page, "architecture")[0]
    page.click("#rows tr")
    detail = page.locator("#detail").inner_text()
    assert detail.count("<script>alert(1)</script>") >= 8
    assert page.locator("#detail img").count() == 0
    assert page.locator("script").count() == 2
    assert page.locator("h1").inner_text() == printable(EVIL)
    page.mouse.move(700, 500)
    page.wait_for_timeout(50)


def test_the_index_links_to_the_suites(open_page, board):
    page = open_page("index")
    assert page.locator(".suites h2 a").first.get_attribute("href") == "mnist/index.html"
    cells = page.locator(".suites table").first.locator("tbody tr").first.locator("td")
    assert cells.nth(1).inner_text() == board.headline.rows[0].label
    assert page.locator(".suites img").count() == 0


@pytest.mark.parametrize("name", ["zoo", "evil", "crowd", "index"])
def test_a_phone_needs_no_scrolling_sideways(open_page, name):
    page = open_page(name, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    if name == "index":
        return
    page.locator("#rows .name").first.click()
    assert page.locator("#detail").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    box = page.locator("#rows td.bits").first.bounding_box()
    assert box["x"] + box["width"] <= PHONE["width"]
    scrolled = page.locator(".ranking").evaluate(
        "node => { node.scrollLeft = 400; return node.scrollLeft }"
    )
    assert scrolled > 0
    assert page.locator("#rows .name").first.bounding_box()["x"] >= 0


def test_a_link_within_the_page_changes_nothing_that_is_shown(open_page, zoo):
    page = open_page("zoo")
    page.locator("#tolerances label").nth(1).click()
    page.locator("#rows .name").nth(2).click()
    shown, address = page.locator("#ranking").inner_text(), page.url
    page.click('nav a[href="#reading"]')
    assert page.url == address
    assert page.evaluate("document.activeElement.id") == "reading-title"
    assert page.locator("#ranking").inner_text() == shown
    assert page.locator("#detail").is_visible()


def test_an_address_of_another_site_is_not_filtered(open_page):
    page = open_page("sites")
    page.fill("#filter", "at")
    page.locator("#architectures .chip").first.click()
    page.evaluate("location.hash = '#site=1'")
    page.locator("#rows .name", has_text="at-layer.2").wait_for()
    assert page.locator('#architectures .chip[aria-pressed="true"]').count() == 0
    assert page.locator("#count").inner_text() == "1 of 1 SAEs"


def test_the_whole_table_fits_a_laptop_with_a_scroll_bar(open_page):
    page = open_page("mnist")
    for width in (1280, 1366, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        table = page.locator(".ranking table").evaluate(
            "node => { node.style.width = 'auto'; return node.offsetWidth }"
        )
        assert table <= page.locator(".ranking").evaluate("node => node.clientWidth") - 15


def test_the_whole_table_is_printed(open_page):
    page = open_page("mnist", {"width": 1030, "height": 700})
    page.emulate_media(media="print")
    box = page.locator(".ranking").evaluate(
        "node => [node.scrollWidth - node.clientWidth, node.scrollHeight - node.clientHeight]"
    )
    assert box == [0, 0]
    assert not page.locator(".controls").is_visible()
    assert page.locator(".ranking tr[data-id]").count() == 161


def main_thread_seconds(page, visit):
    """CPU seconds that the page computes during a visit: others' are not counted."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    visit()
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    devtools.detach()
    return {one["name"]: one["value"] for one in metrics}["TaskDuration"]


def test_two_hundred_saes_are_interactive_within_two_seconds(open_page, record_property):
    """On an idle machine: by CPU time, and by the fastest of three visits."""
    page = open_page("crowd")

    def visit():
        page.evaluate("history.replaceState(null, '', location.pathname)")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.click('#headers button[data-key="bits"]')
        assert page.locator("#headers th.bits").get_attribute("aria-sort") == "ascending"

    seconds = min(main_thread_seconds(page, visit) for _ in range(3))
    record_property("seconds", round(seconds, 2))
    assert page.locator("#rows tr").count() == 200
    assert 0.02 < seconds < 2
    page.click("#rows tr:nth-child(50)")
    assert page.locator("#detail .pictures img").is_visible()
