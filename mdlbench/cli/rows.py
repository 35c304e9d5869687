"""What the command line shows, as rows of plain values."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlbench.console.terminal import INERT, Field, fitted_table, inert, say, stdout_console
from mdlbench.console.terminal import show as show_table

if TYPE_CHECKING:
    from mdlbench.adapters.check import Check
    from mdlbench.codes.bitstream import Decoded
    from mdlbench.disk.cache import Held
    from mdlbench.scoring.plan import Plan
    from mdlbench.scoring.repeat import Unverified, Verified

Row = dict[str, Any]


def suites() -> list[Row]:
    """The shipped suites: SAEs without baselines, GB to download, GB of memory, test tokens."""
    from mdlbench.adapters.identity import BASELINE
    from mdlbench.suite.folders import suite_names
    from mdlbench.suite.load import load_suite

    loaded = [load_suite(name) for name in suite_names()]
    return [
        {
            "suite": s.name,
            "title": s.title,
            "SAEs": sum(not entry.spec.startswith(f"{BASELINE}:") for entry in s.saes),
            "download, GB": "" if s.costs.download_gb is None else s.costs.download_gb,
            "memory, GB": s.costs.memory_gb or "",
            "test tokens": (s.source.most_tokens | s.source.exact_tokens).get("test", ""),
            "digest": s.digest[:12],
        }
        for s in loaded
    ]


def saes(name: str) -> list[Row]:
    """The SAEs of a suite, where the suite itself says that they are scored, and their specs.

    Raises:
        UsageError: there is no such suite, or it lists none.
    """
    from mdlbench.errors import UsageError
    from mdlbench.suite.load import load_suite

    suite = load_suite(name)
    if not suite.saes:
        raise UsageError(f"suite {suite.name!r} lists no SAEs; name yours with --sae")
    return [
        {"SAE": entry.key, "hook": entry.place.hook or "", "spec": entry.spec}
        for entry in suite.saes
    ]


def adapters() -> list[Row]:
    """Built-in adapters and those of installed packages; none of them is imported."""
    from mdlbench.adapters import registry

    return [
        {"adapter": plugin.name, "package": plugin.distribution, "what": plugin.description}
        for plugin in registry.ADAPTERS.plugins()
    ]


def records(folder: Path) -> list[Row]:
    """The records under a folder, or of a results folder by its name, by path.

    Raises:
        UsageError: there is no such folder, or nothing in it.
    """
    from mdlbench.errors import RecordError, UsageError
    from mdlbench.records.store import read_record, results_folder

    folder = results_folder(folder)
    paths = sorted(folder.glob("**/records/*.json"))
    if not paths:
        raise UsageError(f"{folder}: {'no records here' if folder.is_dir() else 'no such folder'}")
    rows: list[Row] = []
    for path in paths:
        try:
            record = read_record(path)
        except RecordError as error:
            nothing = {"suite": "", "SAE": "", "quantiser": "", "date": "", "from": ""}
            rows.append({"file": str(path), **nothing, "state": str(error)})
            continue
        state = "edited" if record.is_edited else "partial" if record.partial else record.status
        rows.append(
            {
                "file": str(path),
                "suite": record.identity.suite,
                "SAE": record.name,
                "quantiser": ", ".join({point.quantiser: "" for point in record.points}),
                "date": record.provenance.date,
                "from": record.provenance.sae or "",
                "state": state,
            }
        )
    return rows


def cached(held: Sequence[Held], as_json: bool) -> list[Row]:
    """What the cache keeps, entries of one name together, the last used first."""
    groups: dict[tuple[str, str], list[Held]] = {}
    for one in sorted(held, key=lambda one: -one.used):
        groups.setdefault((one.kind, one.what), []).append(one)
    rows: list[Row] = []
    for (kind, what), group in groups.items():
        used = datetime.fromtimestamp(int(group[0].used), UTC).isoformat()
        size = sum(one.n_bytes for one in group) if as_json else megabytes(group)
        named = {"kind": kind, "what": what, "entries": len(group)}
        rows.append(named | {"bytes" if as_json else "size": size, "last used": used})
    return rows


def megabytes(held: Sequence[Held]) -> str:
    return f"{sum(one.n_bytes for one in held) / 1e6:,.1f} MB"


def stream_facts(decoded: Decoded) -> Row:
    """What a decoded bitstream holds, and what it costs."""
    symbols, sizes = decoded.symbols, decoded.sizes
    return {
        **{str(key): value for key, value in decoded.metadata.items()},
        "step": decoded.step,
        "tokens": symbols.n_tokens,
        "latents": symbols.n_latents,
        "nonzeros": len(symbols.symbol),
        "header bytes": sizes.header_bytes,
        "of which codebook": sizes.codebook_bytes,
        "of which forest": sizes.tree_bytes,
        "payload bytes": sizes.payload_bytes,
        "bits per token (payload)": 8 * sizes.payload_bytes / max(symbols.n_tokens, 1),
        "checksum": "matches",
    }


def symbols_npz(decoded: Decoded) -> bytes:
    """Symbols as an `.npz` of arrays token, latent, symbol and value.

    Values are latents as the quantiser scales them: times decoder norms, except for `uniform`.
    """
    import numpy as np

    from mdlbench.quantisers.files import decoded_values

    symbols, values = decoded.symbols, decoded_values(decoded)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        token=symbols.token,
        latent=symbols.latent,
        symbol=symbols.symbol,
        value=values.value,
    )
    return buffer.getvalue()


def plan_rows(plan: Plan) -> list[Row]:
    """Which SAEs a run would score, and where."""
    return [
        {
            "SAE": sae.label,
            "site": sae.site,
            "would be": f"not scored: {sae.problem}"
            if sae.problem
            else "kept, if nothing changed"
            if sae.has_record
            else "scored",
        }
        for sae in plan.saes
    ]


def plan_seconds(plan: Plan, n_workers: int) -> float | None:
    """How long a run would take, if other SAEs' records tell."""
    return None if plan.seconds is None else plan.seconds * plan.n_to_score / n_workers


def plan_lines(plan: Plan, seconds: float | None) -> list[str]:
    """What else a run would need: tokens, downloads and time."""
    tokens = " and ".join(f"{n:,} {split}" for split, n in plan.tokens.items())
    return [
        f"tokens of an SAE: {f'at most {tokens}' if tokens else 'as many as the data have'}",
        f"downloads: {', '.join(plan.downloads) or 'none'}",
        f"time: {_how_long(plan, seconds)}",
    ]


def _how_long(plan: Plan, seconds: float | None) -> str:
    from mdlbench.console.terminal import about

    if plan.n_to_score == 0:
        return "nothing is to be scored"
    wanted = f"{plan.n_to_score} {plan.counted}{'' if plan.n_to_score == 1 else 's'}"
    if seconds is None or plan.seconds is None:
        return f"not known until one is scored here, for {wanted}"
    return f"{about(seconds)} for {wanted} at {plan.seconds:.1f} s each, as in {plan.seen_in}/"


def check_rows(checks: Sequence[Check]) -> list[Row]:
    """What an adapter was checked for, and what was found."""
    words = {True: "ok", False: "FAILED", "warning": "warning"}
    return [{"check": c.name, "": words[c.passed], "found": c.message} for c in checks]


def verification_row(outcome: Verified | Unverified) -> Row:
    """How measuring a record again went."""
    from mdlbench.scoring.repeat import Verified

    row: Row = {"record": str(outcome.path), "SAE": outcome.label}
    if isinstance(outcome, Verified):
        return {**row, **outcome.deviation._asdict(), "reproduction": str(outcome.kept)}
    return {**row, "error": str(outcome.error)}


def verification_line(row: Row) -> str:
    """A row of `verification_row` as one line."""
    if "error" in row:
        return f"{row['SAE']}: not reproduced: {row['error']}"
    return (
        f"{row['SAE']}: reproduced; rates within {row['bits']:.1e}, losses within "
        f"{row['loss']:.1e}, accepted steps within {row['positions']} eighths of an octave"
    )


def show(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        say(json.dumps(rows, indent=1))
    else:
        print_table(rows)


def print_pairs(facts: Row) -> None:
    """A mapping, one line each."""
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        say(f"{printed(key):<{width}}  {printed(value)}")


def printed(value: object) -> str:
    """A value in one line, and inert."""
    return inert(str(value)).translate({ord("\n"): INERT, ord("\t"): INERT})


def print_table(rows: Sequence[Row]) -> None:
    """Rows as a plain table; names in them are not read as markup.

    Where not all columns fit, the last one and the first are kept longest.
    """
    if not rows:
        say("none")
        return
    last = len(rows[0]) - 1
    fields = [
        Field(printed(header), folds=True, worth={0: 2, last: 1}.get(i, 0))
        for i, header in enumerate(rows[0])
    ]
    cells = [[printed(value) for value in row.values()] for row in rows]
    console = stdout_console()
    options: dict[str, Any] = {"box": None, "header_style": "bold", "pad_edge": False}
    show_table(console, fitted_table(fields, cells, console.width, **options))
