"""How long many records take: reading, ranking and showing them, and the page of 200 SAEs.

    python benchmarks/leaderboard.py

Records are copies of the committed ones of suite mnist under names of their own, at rates scaled by
a factor each, and on the page with 100 points each. The command line runs as a process, with all
that it imports. The page is opened from its file in a headless Chromium; its time is from
navigation until it has been sorted by a click.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from subprocess import DEVNULL, run

import numpy as np
from clock import Clock
from playwright.sync_api import sync_playwright

from mdlbench.records.record import EvalRecord, Identity, ToleranceResult
from mdlbench.records.store import REFERENCES, RecordStore, read_records
from mdlbench.report.page import write_pages

BOARD = Path(__file__).parent.parent / "leaderboards" / "mnist"
N_RECORDS, N_ON_PAGE, N_POINTS = 10_000, 200, 100
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def copies(n: int) -> list[EvalRecord]:
    """Committed records under other names, at other rates; pictures and profiles are theirs."""
    originals = [r for r in read_records(BOARD) if r.identity.coder.adapter != "baseline"]
    factors = np.random.default_rng(0).uniform(0.8, 1.5, size=n)
    return [
        _scaled(originals[i % len(originals)], f"sae-{i:05d}", float(factor))
        for i, factor in enumerate(factors)
    ]


def _scaled(record: EvalRecord, name: str, factor: float) -> EvalRecord:
    coder = record.identity.coder.model_copy(update={"name": name})
    identity: Identity = record.identity.model_copy(update={"coder": coder})
    results = [_scaled_result(result, factor) for result in record.tolerances]
    changes = {"id": identity.id, "identity": identity, "tolerances": results}
    return record.model_copy(update=changes)


def _scaled_result(result: ToleranceResult, factor: float) -> ToleranceResult:
    if result.bits is None or result.bits_ci is None:
        return result
    scaled = {
        "bits": result.bits * factor,
        "bits_ci": tuple(end * factor for end in result.bits_ci),
        "replicates": [float(str(np.float32(r * factor))) for r in result.replicates],
    }
    return result.model_copy(update=scaled)


def with_points(record: EvalRecord, n: int) -> EvalRecord:
    """The record with its points repeated, at steps between their own, until there are so many."""
    points = [
        point.model_copy(update={"step": point.step * (1 + 0.001 * i)})
        for i in range(-(-n // len(record.points)))
        for point in record.points
    ]
    return record.model_copy(update={"points": points[:n]})


def write(records: list[EvalRecord], folder: Path) -> None:
    store = RecordStore(folder)
    store.prepare()
    for record in records:
        store.path(record.identity).write_text(record.to_json())
    shutil.copy(BOARD / REFERENCES, folder)


def opened(page: Path) -> float:
    """Seconds from navigation to a table that was sorted by a click, in a fresh browser page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab, clock = browser.new_page(), Clock()

        def use() -> None:
            tab.goto(page.as_uri())
            tab.wait_for_selector("[data-ready]")
            tab.click("th:has-text('Latents') button, th:has-text('Latents')")

        clock.time("open", use)
        browser.close()
        return clock.median("open")


def main() -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        many, few = Path(place) / "many", Path(place) / "few"
        write(copies(N_RECORDS), many)
        size = sum(path.stat().st_size for path in (many / "records").iterdir())
        for _ in range(3):
            command = ["mdlbench", "leaderboard", str(many)]
            clock.time("leaderboard", lambda c=command: run(c, check=True, stdout=DEVNULL))
            clock.time("bytes", lambda: [p.read_bytes() for p in (many / "records").iterdir()])
            clock.time(
                "json", lambda: [json.loads(p.read_text()) for p in (many / "records").iterdir()]
            )
        print(f"{N_RECORDS:,} records, {size / 1e9:.2f} GB")
        print(f"  mdlbench leaderboard      {clock.median('leaderboard'):6.1f} s")
        print(f"  against json.loads alone  {clock.ratio('leaderboard', 'json'):6.2f}")
        print(f"  against reading the bytes {clock.ratio('leaderboard', 'bytes'):6.2f}")
        write([with_points(record, N_POINTS) for record in copies(N_ON_PAGE)], few)
        (page,) = clock.time("page", lambda: write_pages(few))
        print(f"page of {N_ON_PAGE} SAEs, {N_POINTS} points each")
        print(f"  size                      {page.stat().st_size / 1e6:6.2f} MB")
        print(f"  written in                {clock.median('page'):6.1f} s")
        print(f"  opened and sorted in      {sorted(opened(page) for _ in range(3))[1]:6.2f} s")


if __name__ == "__main__":
    main()
