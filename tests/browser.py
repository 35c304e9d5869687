"""What the tests of the web page in a headless Chromium share."""

import os
import shutil
from pathlib import Path

import pytest

from mdlbench.suite.suite import Headline

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SIZES = (1400, 1280, 390)
DESK = {"width": 1400, "height": 900}
PHONE = {"width": 390, "height": 844}
HEADLINE = Headline(metric="mse", epsilon=0.015)

skip_without_chromium = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and "CI" not in os.environ,
    reason="no Chromium here; Debian's package is `chromium`",
)


def column(page, key):
    return [text.strip() for text in page.locator(f"#rows .{key}").all_inner_texts()]


def names(page):
    return column(page, "sae")


def choose_tolerance(page, value):
    page.locator(f'#tolerances input[value="{value}"]').check(force=True)


def curves(page, name):
    return page.locator("#curves").get_attribute(f"data-{name}")
