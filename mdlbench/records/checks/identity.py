"""Whether a record fits the suite that it names, as that suite is now."""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

from mdlbench.records.record import PROTOCOL, EvalRecord
from mdlbench.statistics.metrics import METRICS
from mdlbench.suite.site import AND
from mdlbench.suite.suite import Suite

LONGEST_NAME = 200
LONGEST_TEXT = 4000
"""The most characters of any other text, except encoded data."""
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40,64}")
ENCODED = ("png", "bits", *METRICS)
"""Keys whose texts are base64 and may be long."""


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    yield from _of_measurement(record, suite)
    yield from _of_site(record, suite)
    yield from _of_tokens(record, suite)
    yield from _of_names(record)
    yield from _of_provenance(record)
    yield from _texts(record.model_dump(mode="json"), "record")


def _of_measurement(record: EvalRecord, suite: Suite) -> Iterator[str]:
    identity = record.identity
    if record.id != identity.id:
        yield "the id does not match the identity"
    expected = {
        "suite": suite.name,
        "suite_digest": suite.digest,
        "protocol": PROTOCOL,
        "seed": suite.seed,
    }
    for key, value in expected.items():
        found = getattr(identity, key)
        if found != value:
            yield f"{key} {str(found)[:12]} is not the current one, {str(value)[:12]}"
    if identity.quantiser == suite.quantiser:
        yield f"quantiser {suite.quantiser} is the suite's own, and must not be named"
    if record.partial != (identity.limit is not None):
        yield f"partial is {record.partial}, but limit {identity.limit}"
    if identity.limit is not None and identity.limit < 1:
        yield f"limit {identity.limit} is less than 1"


def _of_site(record: EvalRecord, suite: Suite) -> Iterator[str]:
    for key, value in suite.source.fixed_site.items():
        found = getattr(record.site, key)
        if found != value:
            yield f"site.{key} {str(found)[:80]!r} is not the suite's, {value!r}"


def _of_tokens(record: EvalRecord, suite: Suite) -> Iterator[str]:
    tokens, source = record.n_tokens, suite.source
    if min(tokens.calibration, tokens.test) < 1:
        yield "no tokens were measured"
    if any(getattr(tokens, split) > most for split, most in source.most_tokens.items()):
        yield "more tokens than the suite has"
    for split, stated in source.exact_tokens.items():
        found, expected = getattr(tokens, split), min(stated, record.identity.limit or stated)
        if found != expected:
            yield f"{found} {split} tokens are not the suite's {expected}"


def _of_names(record: EvalRecord) -> Iterator[str]:
    coder = record.identity.coder
    for key, digest in (
        ("weights_sha256", coder.weights_sha256),
        ("data_sha256", record.identity.data_sha256),
    ):
        if not SHA256.fullmatch(digest):
            yield f"{key} is not a SHA-256"
    names = {"name": coder.name, "adapter": coder.adapter}
    names |= {"architecture": record.coder.architecture, "hook": record.site.hook}
    for key, name in _each_name(names):
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            yield f"{key} is empty, longer than {LONGEST_NAME} characters, or not printable"
        elif _is_path(name):
            yield f"{key} {name[:80]!r} is a path"


def _each_name(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Those of several SAEs or hook points, one by one."""
    for key, name in names.items():
        for one in name.split(AND):
            yield key, one


def _is_path(name: str) -> bool:
    """Whether a name leads out of a folder; a release's name may have parts."""
    path = PureWindowsPath(name)
    return bool(path.anchor) or ".." in path.parts or "\\" in name or name.startswith("~")


def _of_provenance(record: EvalRecord) -> Iterator[str]:
    provenance, environment = record.provenance, record.environment
    try:
        datetime.date.fromisoformat(provenance.date[:10])
    except ValueError:
        yield f"provenance.date {provenance.date[:40]!r} is not a date"
    if provenance.commit is not None and not COMMIT.fullmatch(provenance.commit):
        yield "provenance.commit is not a commit"
    if environment.threads < 1 or environment.seconds < 0:
        yield "environment: less than one thread, or negative seconds"


def _texts(value: Any, key: str) -> Iterator[str]:
    """Texts that are too long or not printable, anywhere in a record."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _texts(name, f"a key of {key}")
            yield from _texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)
    elif isinstance(value, str) and not _is_plain(value, key):
        yield f"{key[:40]}: longer than {LONGEST_TEXT} characters, or not printable"


def _is_plain(text: str, key: str) -> bool:
    return (key in ENCODED and _is_base64(text)) or (
        len(text) <= LONGEST_TEXT and text.isprintable()
    )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
