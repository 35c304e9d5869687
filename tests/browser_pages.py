"""Fixtures: a headless Chromium, and pages to open in it."""

import functools
from pathlib import Path

import pytest

from mdlbench.boards.leaderboard import build
from mdlbench.report.page.project import PROJECT_URLS
from mdlbench.report.page.write import index_page, suite_page
from tests.browser import CHROMIUM, DESK, HEADLINE
from tests.crowd import crowd, evil_record, references_of_evil
from tests.records import (
    DATA_SHA256,
    IMAGES,
    make_record,
    make_site_references,
    realistic_references,
    realistic_suite,
)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LEADERBOARDS = Path(__file__).parent.parent / "leaderboards"
PATIENCE_MS = 120_000


def two_sites():
    """An SAE at each of two hook points, and the references of both."""
    hooks = [IMAGES.model_copy(update={"hook": hook}) for hook in ("layer.1", "layer.2")]
    places = list(zip(hooks, (DATA_SHA256, DATA_SHA256[::-1]), strict=True))
    records = [make_record(f"at-{s.hook}", site=s, data_sha256=data) for s, data in places]
    sites = [make_site_references(*place) for place in places]
    return records, realistic_references().model_copy(update={"sites": sites})


def mixed():
    """Two SAEs, one of them in two ways, and a baseline in two ways."""
    return [
        make_record("one"),
        make_record("one", quantiser="tree"),
        make_record("two"),
        make_record("pca", adapter="baseline"),
        make_record("pca", adapter="baseline", quantiser="tree"),
    ]


@pytest.fixture(scope="session")
def zoo():
    return realistic_suite(widths=(64, 128, 256, 512))


@pytest.fixture(scope="session")
def board(zoo):
    return build(zoo, HEADLINE)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address_of(zoo, tmp_path_factory):
    """The address of a page by its name; a page is written when it is first asked for."""
    folder = tmp_path_factory.mktemp("pages")
    references = realistic_references()
    evil = evil_record()
    heavy = crowd(3, n_points=3, picture_bytes=2_000_000)
    pages = {
        "zoo": lambda: suite_page(zoo, references, links=[("table.csv", "table.csv")]),
        "evil": lambda: suite_page([evil], references_of_evil(), archive=[build([evil], HEADLINE)]),
        "sites": lambda: suite_page(*two_sites()),
        "mixed": lambda: suite_page(
            mixed(), references, links=[*PROJECT_URLS.items()], has_records=True
        ),
        "pictures": lambda: suite_page(heavy, references, standings={heavy[1].id: "reproduced"}),
        "crowd": lambda: suite_page(crowd(200), references),
        "index": lambda: index_page(
            [("mnist", [build(zoo, HEADLINE)]), ("e", [build([evil], HEADLINE)])]
        ),
    }

    @functools.cache
    def address(name):
        if name == "mnist":
            return (LEADERBOARDS / "mnist" / "index.html").as_uri()
        path = folder / f"{name}.html"
        path.write_bytes(pages[name]())
        return path.as_uri()

    return address


@pytest.fixture
def open_page(browser, address_of):
    """Opens a page; afterwards there must have been no error, message, dialogue or request."""
    heard, contexts = [], []

    def opened(name, size=DESK, fragment="", scheme="light", has_touch=False):
        context = browser.new_context(
            viewport=size, reduced_motion="reduce", color_scheme=scheme, has_touch=has_touch
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on("request", lambda request: _note_request(request.url, heard))
        page.goto(address_of(name) + fragment)
        if name != "index":
            page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert heard == []


def _note_request(url, heard):
    if not url.startswith(("file:", "data:image/png", "data:,", "blob:")):
        heard.append(url)
