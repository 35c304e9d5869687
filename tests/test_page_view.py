"""A board's page in a headless Chromium: its address, side by side, files, looks, access."""

import csv
import io
import json
import re
import zlib
from importlib import resources
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import expect

from mdlbench.boards.pairing import differences
from mdlbench.curves.curve import RateDistortionCurve, RatePoint
from mdlbench.report.tables import printable
from tests.browser import (
    PHONE,
    SIZES,
    choose_tolerance,
    curves,
    names,
    skip_without_chromium,
)
from tests.crowd import EVIL

pytest_plugins = ("tests.browser_pages",)
pytestmark = skip_without_chromium

ASSETS = resources.files("mdlbench.report.page") / "assets"
SVG = "{http://www.w3.org/2000/svg}"


def asset(name):
    return (ASSETS / name).read_text(encoding="utf-8")


def view_of(page):
    """All that can be chosen on a page, as it is shown."""
    return page.evaluate(
        """() => {
          const texts = (query) => [...document.querySelectorAll(query)].map((n) => n.textContent);
          return {
            tolerance: document.querySelector('#tolerances input:checked').value,
            pressed: texts('.segments [aria-pressed=true], .chip[aria-pressed=true]'),
            filter: document.getElementById('filter').value,
            rows: texts('#rows .name'),
            sort: [...document.querySelectorAll('#headers th')].map((n) => n.ariaSort),
            curves: {...document.getElementById('curves').dataset},
            selected: document.getElementById('detail').dataset.id,
            pinned: texts('#beside .who'),
          };
        }"""
    )


def settled(page):
    """After the next frame: plots are drawn."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def pin(page, label):
    page.click(f'.ranking [aria-label="Side by side: {label}"]')


def saved(page, button, tmp_path):
    with page.expect_download() as waiting:
        page.click(button)
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_the_address_holds_the_view_and_back_goes_back(open_page):
    page = open_page("zoo")
    views = [view_of(page)]
    steps = [
        lambda: choose_tolerance(page, "mse:0.02"),
        lambda: page.click('#architectures .chip[data-name="jumprelu"]'),
        lambda: page.locator("#filter").press_sequentially("-128-"),
        lambda: page.click('#headers button[data-key="l0"]'),
        lambda: page.click('#headers button[data-key="l0"]'),
        lambda: page.click("#loss-axis button:has-text('linear')"),
        lambda: page.click("#rate-axis button:has-text('log')"),
        lambda: page.click("#hulls button:has-text('families')"),
        lambda: page.click("#metric button:has-text('FVU')"),
        lambda: page.locator("#rows .name").first.click(),
        lambda: page.locator("#rows .pin").nth(1).click(),
        lambda: page.locator("#rows .pin").nth(2).click(),
    ]
    for step in steps:
        step()
        settled(page)
        views.append(view_of(page))
    assert all(one != other for one, other in pairwise(views))
    assert page.locator("#note").inner_text() == ""
    fragment = "#" + page.url.split("#")[1]
    other = open_page("zoo", fragment=fragment)
    settled(other)
    assert view_of(other) == views[-1]
    assert other.locator("#note").inner_text() == ""
    for view in views[-2::-1]:
        page.go_back()
        settled(page)
        assert view_of(page) == view
    page.go_forward()
    settled(page)
    assert view_of(page) == views[1]


def test_the_link_is_copied(open_page):
    page = open_page("zoo")
    choose_tolerance(page, "delta_ce:0.05")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    expect(page.locator("#note")).to_have_text("The link is copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert link.endswith("#at=delta_ce:0.05")


def test_what_an_address_does_not_know_is_said_and_runs_nothing(open_page, zoo):
    markup = "%3Cimg%20src=x%20onerror=alert(1)%3E%E2%80%AE"
    parts = (f"{markup}=1", f"architecture={markup}", "pins=0123456789ab", "__proto__=1")
    page = open_page("zoo", fragment=f"#at=mse:0.03&{'&'.join(parts)}&sort=constructor")
    note = page.locator("#note").inner_text()
    assert note.startswith(
        "Not understood in the address, and ignored: <img src=x onerror=alert(1)>�=1"
    )
    assert page.locator("img").count() == 0
    assert page.locator("#table-title").inner_text() == "Ranking at MSE ≤ 0.03"
    assert len(names(page)) == len([record for record in zoo if not record.is_baseline])
    page.click('#headers button[data-key="l0"]')
    assert page.locator("#note").inner_text() == ""
    page.evaluate("location.hash = '#loss=cubic'")
    expect(page.locator("#note")).to_have_text(re.compile("ignored: loss=cubic$"))


def test_differences_side_by_side_are_those_of_compare(open_page, zoo, board):
    page = open_page("zoo")
    choose_tolerance(page, "mse:0.03")
    table = next(t for t in board.tables if (t.metric, t.epsilon) == ("mse", 0.03))
    rows = table.of("ranked")
    chosen = [rows[i].record for i in (3, 0, 5, 2)]
    words = page.locator("#beside .caption")
    pin(page, chosen[0].name)
    assert words.inner_text() == (
        "Pin others with the box before a name, up to 4 in all; differences are to the first."
    )
    for record in chosen[1:]:
        pin(page, record.name)
    assert words.inner_text().startswith(f"Differences are to {chosen[0].name}, with the 95% ")
    assert page.locator("#beside .who").all_inner_texts() == [record.name for record in chosen]
    pin(page, rows[1].label)
    assert page.locator("#note").inner_text().startswith("4 SAEs are side by side already")
    for metric, name, unit in (("mse", "MSE", ""), ("delta_ce", "ΔCE", " nats")):
        pairs = {
            (i, at.epsilon): at.difference
            for i, record in enumerate(chosen[1:], start=1)
            for at in differences(chosen[0], record, metric)
        }
        assert pairs
        for (i, epsilon), wanted in pairs.items():
            row = page.locator("#beside tr").filter(
                has=page.get_by_role(
                    "rowheader", name=re.compile(f"^{name} ≤ {epsilon:g}{unit}( ★)?$")
                )
            )
            shown = row.locator("td").nth(i).locator(".difference")
            text = f"{wanted.bits:+.2f} [{wanted.low:.2f}, {wanted.high:.2f}]".replace("-", "−")
            assert shown.inner_text() == text
            assert shown.evaluate("n => n.classList.contains('chance')") == (wanted.sign == 0)
    page.get_by_role("button", name=f"Make first: {chosen[2].name}").click()
    assert page.locator("#beside .who").first.inner_text() == chosen[2].name
    ids = [record.id[:16] for record in (chosen[2], chosen[0], chosen[1], chosen[3])]
    command = page.locator("#beside .command code").inner_text()
    assert command == f"mdlbench compare {' '.join(ids)} --in ."
    page.get_by_role("button", name=f"Take out: {chosen[0].name}").click()
    assert page.locator("#beside .who").count() == 3
    settled(page)
    assert set(curves(page, "followed").split()) == {chosen[i].id for i in (1, 2, 3)}


def test_hulls_are_those_of_the_curves(open_page, zoo):
    page = open_page("zoo")
    assert curves(page, "hulls") == "hull of all SAEs shown"
    page.click("#hulls button:has-text('families')")
    assert curves(page, "hulls") == "jumprelu"
    generator = np.random.default_rng(0)
    clouds = [generator.integers(0, 12, (n, 2)).tolist() for n in (1, 2, 5, 40, 40, 200)]
    trained = [record for record in zoo if not record.is_baseline]
    clouds.append([[p.bits.total, p.mse] for record in trained for p in record.points])
    found = page.evaluate(
        f"(clouds) => {{ {asset('hulls.js')}; return clouds.map(lowerHull); }}", clouds
    )
    for cloud, hull in zip(clouds, found, strict=True):
        points = [RatePoint(rate, loss, 1.0, 1.0) for rate, loss in cloud]
        wanted = RateDistortionCurve.of(points, "hull", "mse").lower_hull()
        assert hull == [list(point[:2]) for point in wanted.points]
    widths = page.evaluate(
        f"() => {{ {asset('scale.js')}; return [powersOfTwo(25, 5000), powersOfTwo(70, 100)]; }}"
    )
    assert widths == [[32, 64, 128, 256, 512, 1024, 2048, 4096], [70, 75, 80, 85, 90, 95, 100]]


def test_the_view_is_saved_as_csv_and_json(open_page, board, tmp_path):
    page = open_page("zoo")
    page.fill("#filter", "-128-")
    page.click('#headers button[data-key="l0"]')
    shown = [row for row in board.headline.rows if "-128-" in row.label and row.result.bits]
    shown.sort(key=lambda row: row.result.l0)
    path = saved(page, "#save-csv", tmp_path)
    assert path.name == "mnist-ranking-mse-0.015.csv"
    lines = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [line["label"] for line in lines if line["bits"]] == [row.label for row in shown]
    for line, row in zip(lines, shown, strict=False):
        assert float(line["bits"]) == pytest.approx(row.result.bits, rel=1e-9)
        assert float(line["delta_low"]) == pytest.approx(row.ranking.delta_low, rel=1e-9, abs=1e-12)
        assert (line["id"], line["rank"]) == (row.record.id, str(row.ranking.rank))
    content = json.loads(saved(page, "#save-json", tmp_path).read_text())
    assert (content["metric"], content["epsilon"]) == ("mse", 0.015)
    assert content["view"] == "#filter=-128-&sort=l0"
    assert [row["label"] for row in content["rows"]] == [line["label"] for line in lines]
    cells = ["=1+1", "  @x", "\tx", "-2", 'a,"b"', "a\rb", -2.5, None, True]
    found = page.evaluate(
        f"(cells) => {{ {asset('export.js')}; return cells.map(csvCell); }}", cells
    )
    assert found == ["'=1+1", "'  @x", "'\tx", "'-2", '"a,""b"""', "a�b", "-2.5", "", "true"]


def test_plots_are_saved_in_light_colours_with_their_title(open_page, tmp_path):
    page = open_page("zoo", scheme="dark")
    choose_tolerance(page, "mse:0.03")
    page.click("#hulls button:has-text('families')")
    page.locator("#rows .name").first.click()
    settled(page)
    tree = ElementTree.fromstring(saved(page, "#curves .svg", tmp_path).read_text())
    texts = [node.text for node in tree.iter(f"{SVG}text")]
    assert any(text.endswith("Rate and MSE, ε = 0.03") for text in texts)
    assert {"ε = 0.03", "rate (bits per token)", "jumprelu", "pca"} <= set(texts)
    ground = next(tree.iter(f"{SVG}path"))
    assert ground.get("fill") == "#ffffff"
    assert page.locator("html").get_attribute("class") in (None, "")
    widths = ElementTree.fromstring(saved(page, "#widths .svg", tmp_path).read_text())
    ticks = {node.text for node in widths.iter(f"{SVG}text")}
    assert {"64", "128", "256", "512"} <= ticks
    png = saved(page, "#curves .png", tmp_path).read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20]) == 1800


def test_a_hostile_name_is_text_in_columns_and_in_files(open_page, tmp_path):
    page = open_page("evil")
    page.click("#rows .pin")
    page.click("#rows .name")
    assert page.locator("#beside .who").inner_text() == printable(EVIL)
    assert page.locator("img, script:not(body > script)").count() == 0
    settled(page)
    path = saved(page, "#curves .svg", tmp_path)
    assert path.name == "script-alert-1-script-img-src-x-onerror-alert-2-curves-mse-0.015.svg"
    tree = ElementTree.fromstring(path.read_text())
    assert {node.tag.removeprefix(SVG) for node in tree.iter()} <= {
        *("svg", "g", "path", "text", "clipPath", "rect")
    }
    assert any("<script>alert(1)</script>" in (node.text or "") for node in tree.iter())
    assert printable(EVIL)[:20] in saved(page, "#save-csv", tmp_path).read_text()


def test_keys_and_what_is_filtered_out(open_page):
    page = open_page("zoo")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("64-k8")
    assert names(page) == ["batchtopk-64-k8"]
    page.keyboard.press("Escape")
    assert page.locator("#filter").input_value() == ""
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "BODY"
    page.locator("#rows .name").first.focus()
    page.keyboard.press("Enter")
    settled(page)
    chosen = page.locator("#detail").get_attribute("data-id")
    assert curves(page, "followed") == chosen
    page.fill("#filter", "-512-")
    settled(page)
    assert curves(page, "followed") == ""
    assert page.locator("#selected-standing").inner_text().endswith("filtered out")
    page.fill("#filter", "")
    page.locator("#ranking .name").nth(3).focus()
    page.keyboard.press("Escape")
    assert page.locator("#detail").is_hidden()
    assert page.evaluate("document.activeElement.className") == "name"


def test_a_loss_changes_all_panels_and_titles_name_their_tolerance(open_page):
    page = open_page("zoo")
    titles = ("#curves-title", "#bits-title", "#table-title")
    page.click("#metric button:has-text('ΔCE')")
    assert [page.locator(title).inner_text() for title in titles] == [
        "Rate and ΔCE, ε = 0.02 nats",
        "Bits at ΔCE ≤ 0.02 nats against width and L0",
        "Ranking at ΔCE ≤ 0.02 nats",
    ]
    assert page.locator("#tolerances input:checked").get_attribute("value") == "delta_ce:0.02"
    page.click("#metric button:has-text('MSE')")
    assert page.locator("#table-title").inner_text() == "Ranking at MSE ≤ 0.015"
    page.click("#metric button:has-text('FVU')")
    assert page.locator("#curves-title").inner_text() == "Rate and FVU; the suite has no ε on it"
    assert page.locator("#table-title").inner_text() == "Ranking at MSE ≤ 0.015"


def test_bars_begin_at_zero_and_baselines_stand_apart(open_page, board):
    page = open_page("zoo")
    rows = {row.record.id: row for row in board.headline.rows}
    trained = [row for row in rows.values() if row.status == "ranked"]
    most = max(row.interval[1] for row in trained)
    bars = page.evaluate(
        """() => [...document.querySelectorAll('.ranking tr[data-id]')].map((row) => [
          row.dataset.id,
          row.querySelector('.bar rect')?.getAttribute('width'),
          row.querySelector('.bar rect')?.getAttribute('x'),
          Boolean(row.querySelector('.bar .beyond')),
        ])"""
    )
    for id_, width, x, is_beyond in bars:
        bits = rows[id_].result.bits
        assert x is None
        assert is_beyond == (bits is not None and bits > most)
        if bits is not None and bits <= most:
            assert float(width) == pytest.approx(54 * bits / most, rel=1e-6)
    assert f"end at {most:.0f} bits" in page.locator("#bars").inner_text()
    apart = page.locator("#baselines .name").all_inner_texts()
    wanted = [row.label for row in rows.values() if row.record.is_baseline]
    assert apart == wanted
    assert set(names(page)).isdisjoint(wanted)
    assert page.locator("#baselines .rank").all_inner_texts() == ["–"] * len(wanted)
    assert "without a rank" in page.locator("#baselines-title").inner_text()


def test_saes_are_counted_once_and_records_are_linked(open_page):
    page = open_page("mixed")
    assert page.locator("#count").inner_text() == "2 of 2 SAEs in 3 rows and 1 of 1 baselines"
    page.fill("#filter", "tree")
    assert page.locator("#count").inner_text() == "1 of 2 SAEs and 1 of 1 baselines"
    page.locator("#rows .name").first.click()
    link = page.locator("#detail .lede a")
    id_ = page.locator("#detail").get_attribute("data-id")
    assert link.get_attribute("href") == f"records/one-{id_[:12]}.json"
    paper = page.locator("nav a", has_text="Paper")
    assert paper.get_attribute("href") == "https://arxiv.org/abs/2410.11179"


def test_two_fingers_zoom(open_page):
    page = open_page("zoo", PHONE, has_touch=True)
    page.locator("#curves").scroll_into_view_if_needed()
    settled(page)
    box = page.locator("#curves").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    devtools = page.context.new_cdp_session(page)

    def touch(kind, apart):
        points = [{"x": middle[0] + side * apart, "y": middle[1]} for side in (-1, 1)]
        content = {"type": kind, "touchPoints": [] if kind == "touchEnd" else points}
        devtools.send("Input.dispatchTouchEvent", content)

    reset = page.locator("#curves .reset")
    assert reset.is_hidden()
    touch("touchStart", 30)
    touch("touchMove", 45)
    touch("touchMove", 60)
    touch("touchEnd", 60)
    assert reset.is_visible()
    assert page.locator("#detail").is_hidden()
    reset.click()
    assert reset.is_hidden()
    page.locator("#curves .zoom-in").press("Enter")
    assert reset.is_visible()


def test_a_zoom_has_an_end_on_either_side(open_page, tmp_path):
    """However often somebody presses, ticks can be told apart and the page answers."""
    page = open_page("zoo")
    for way, n in (("zoom-in", 90), ("zoom-out", 40)):
        page.evaluate(
            """async ([way, n]) => {
              for (let i = 0; i < n; i += 1) {
                document.querySelector(`#curves .${way}`).click();
                await new Promise(requestAnimationFrame);
              }
            }""",
            [way, n],
        )
        root = ElementTree.fromstring(saved(page, "#curves .svg", tmp_path).read_text())
        across = [
            float(text.text.replace("−", "-"))
            for text in root.iter(f"{SVG}text")
            if text.get("text-anchor") == "middle" and re.fullmatch(r"[−\d.]+", text.text)
        ]
        assert len(across) > 2
        assert across == sorted(set(across))
    page.locator("#curves .reset").click()
    assert page.locator("#curves .reset").is_hidden()


def test_bits_are_on_the_first_screen_of_a_phone(open_page):
    page = open_page("zoo", PHONE)
    box = page.locator("#rows td.bits").first.bounding_box()
    assert box["y"] + box["height"] <= PHONE["height"]
    assert box["x"] + box["width"] <= PHONE["width"]
    order = page.locator("#ranking, #plots, #tolerances").evaluate_all(
        "all => all.map((n) => n.id)"
    )
    assert order == ["tolerances", "ranking", "plots"]
    assert page.locator("#kinds").get_attribute("open") is None


def test_a_print_starts_on_page_one(open_page):
    page = open_page("zoo", scheme="dark")
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    texts, lines = drawn_on_first_page(pdf)
    assert texts > 100
    assert lines > 20


def drawn_on_first_page(pdf):
    """How many texts and lines the first page of Chromium's PDF has; plots are lines."""
    objects = dict(re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", pdf, re.DOTALL))
    first = min(int(key) for key, content in objects.items() if b"/Type /Page\n" in content)
    texts, lines, found = 0, 0, {str(first).encode()}
    for key in (ahead := [*found]):
        content = objects[key]
        stream = re.search(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
        if stream and b"FlateDecode" in content and b"/Subtype /Image" not in content:
            strokes = zlib.decompress(stream[1])
            texts, lines = texts + strokes.count(b" Tj"), lines + strokes.count(b"\nS")
        head = re.sub(rb"/Parent \d+ 0 R|stream.*", b"", content, flags=re.DOTALL)
        new = set(re.findall(rb"(\d+) 0 R", head)) - found
        found |= new
        ahead.extend(new)
    return texts, lines


def test_texts_can_be_read_and_controls_have_names(open_page):
    page = open_page("zoo")
    page.locator("#rows .name").nth(1).click()
    page.locator("#rows .pin").nth(0).click()
    page.locator("#rows .pin").nth(1).click()
    page.locator("#architectures .chip").first.click()
    grounds = {"light": "rgb(246, 248, 250)", "dark": "rgb(16, 22, 28)"}
    for width in SIZES:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("document.getElementById('kinds').open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(NAMELESS) == []
        for scheme, ground in grounds.items():
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(CONTRASTS) == []
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


CONTRASTS = """() => {
  const channel = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const parsed = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = parsed(getComputedStyle(one).backgroundColor);
      if ((colour[3] ?? 1) === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const node of document.body.querySelectorAll('*')) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('script, svg')) continue;
    const style = getComputedStyle(node);
    const [one, other] = [luminance(parsed(style.color)), luminance(ground(node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) faint.push([node.outerHTML.slice(0, 60), ratio]);
  }
  return faint;
}"""
NAMELESS = """() => [...document.querySelectorAll(
  'a, button, input, select, [tabindex="0"], canvas[role], img')]
  .filter((node) => node.checkVisibility())
  .filter((node) => {
    const labels = [...(node.labels ?? [])].map((label) => label.textContent.trim());
    const referred = (node.getAttribute('aria-labelledby') ?? '').split(' ')
      .map((id) => document.getElementById(id)?.textContent ?? '');
    const own = [node.getAttribute('aria-label'), node.alt, node.textContent.trim()];
    return ![...own, ...labels, ...referred].some(Boolean);
  })
  .map((node) => node.outerHTML.slice(0, 80))"""


def test_the_keyboard_reaches_all_in_the_order_of_the_page(open_page):
    page = open_page("zoo", {"width": 1280, "height": 900})
    page.evaluate(
        """() => {
          window.reached = [];
          document.addEventListener('focusin', ({ target: node }) => {
            const isHidden = node.matches('#tolerances input');
            const style = getComputedStyle(isHidden ? node.nextSibling : node);
            const section = node.closest('#tolerances, .finder, .kinds, .plots, #ranking, nav');
            window.reached.push({
              place: section ? section.id || section.className || 'nav' : node.className,
              outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
            });
          });
        }"""
    )
    for _ in range(40):
        page.keyboard.press("Tab")
    reached = page.evaluate("window.reached")
    assert [one for one in reached if not one["outlined"]] == []
    places = [one["place"] for one in reached]
    order = list(dict.fromkeys(places))
    assert order == ["skip", "nav", "tolerances", "finder", "kinds", "plots", "ranking"]
    assert places == sorted(places, key=order.index)
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "table-title"
