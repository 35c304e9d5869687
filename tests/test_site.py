"""The documentation as a site: built by the recipe of `make docs`, whole, and from nowhere else."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup

from mdlbench.records.schema import record_schema, suite_schema
from tests.documentation import REPOSITORY

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
ELSEWHERE = re.compile(r"(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe = re.search(r"^docs:.*\n\t\$\(BIN\)/python (.+) build/docs$", makefile, re.MULTILINE)
    subprocess.run(
        [sys.executable, *recipe[1].split(), folder],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        for tag, attribute in LOADED.items():
            for element in page.find_all(tag):
                assert not ELSEWHERE.match(element.get(attribute, "")), f"{name}: {element}"
    for path in site.rglob("_static/**/*.css"):
        text = path.read_text()
        assert not re.search(r"""(@import|url\()\s*['"]?(https?:)?//""", text), path


def test_every_local_link_leads_somewhere(site, pages):
    for name, page in pages.items():
        for element in page.find_all("a", href=True):
            path, _, anchor = element["href"].partition("#")
            if ELSEWHERE.match(path) or name in ("genindex.html", "search.html"):
                continue
            target = (site / name).parent / path if path else site / name
            assert target.exists(), f"{name}: {element['href']}"
            there = pages.get(target.resolve().relative_to(site.resolve()).as_posix())
            assert not anchor or there.find(id=anchor), f"{name}: {element['href']}"


def test_the_commands_are_those_of_the_command_line(pages):
    text = pages["command-line.html"].get_text()
    for command in (
        "eval",
        "ls",
        "fetch",
        "check-adapter",
        "leaderboard",
        "train",
        "decode",
        "cache",
    ):
        help_text = subprocess.run(
            [sys.executable, "-m", "mdlbench", command, "--help"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in re.findall(r"--[a-z-]+", help_text):
            assert option in text, f"{command} {option}"


def test_the_records_keys_are_those_of_the_schema(pages):
    page = pages["record.html"]
    for name, part in record_schema()["$defs"].items():
        if "properties" in part:
            section = page.find(id=name.lower())
            keys = [row.td.get_text() for row in section.table.tbody.find_all("tr")]
            assert keys == list(part["properties"])
    assert "half away" not in page.get_text()
    assert "heldout + side: the headline" in page.find(id="bits").get_text()


def test_schemas_are_published(site):
    for name, schema in (("record", record_schema()), ("suite", suite_schema())):
        assert json.loads((site / f"{name}.schema.json").read_text()) == schema


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_formulae_are_set_in_a_browser(site, pages):
    n = len(pages["maths.html"].select(".math"))
    assert n > 300
    shown = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu"),
            *("--virtual-time-budget=20000", "--dump-dom", f"file://{site}/maths.html"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = BeautifulSoup(shown, "html.parser")
    assert len(page.select(".math mjx-container")) == n
    assert not page.select("mjx-merror")
