"""Text → token contexts: the documents of a language source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int64

from mdlbench.disk.files import expanded
from mdlbench.errors import HubError, SuiteError, UsageError, first_line, heed_shortage
from mdlbench.hub.hub import explained, from_cache_if_unreachable, is_hub_error
from mdlbench.sources.kinds.language import FileText, HubText, Text

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""The reader of `datasets` for a file's ending; `.txt` is read as it is."""

BATCH_TEXTS = 64
"""Texts handed to the tokenizer at once."""

UNPREPARED = "Couldn't find cache for"
"""Start of the message of `datasets`, offline, for a config that it has not prepared."""

_TOP_HEADING = re.compile(r"^ ?= [^=].* = ?$")
_SPACING = (
    (re.compile(r" ?<unk>"), ""),
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([,.;:!?%)\]])"), r"\1"),
    (re.compile(r"([(\[$]) "), r"\1"),
    (re.compile(r" ('(?:s|m|d|t|ll|re|ve)\b)"), r"\1"),
    (re.compile(r" (n't\b)"), r"\1"),
    (re.compile(r'" ([^"\n]*?) "'), r'"\1"'),
)


class Tokenizer(Protocol):
    """The part of a `transformers` tokenizer that is used."""

    bos_token_id: int | None
    eos_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: list[str], **options: Any) -> Any: ...


class Contexts(NamedTuple):
    """Packed tokens and, for each, the token that follows it in the text."""

    tokens: Int64[np.ndarray, "document position"]
    labels: Int64[np.ndarray, "document position"]


def measured(
    contexts: Contexts, tokenizer: Tokenizer, first_position: int
) -> Bool[np.ndarray, "document position"]:
    """Where a token is measured: it is not special, nor before a position of its context."""
    ordinary = ~np.isin(contexts.tokens, tokenizer.all_special_ids)
    return ordinary & (np.arange(contexts.tokens.shape[1]) >= first_position)


class MissingTextError(UsageError):
    """A text's file is not there, or its folder has none."""


def read(text: Text, folder: Path) -> Iterator[str]:
    """The texts, one by one; a relative path is relative to `folder`.

    Raises:
        HubError: a dataset is not available.
        MissingTextError: there is no such file, or none in the folder.
        UsageError: a file cannot be read or does not hold text.
    """
    if isinstance(text, HubText):
        texts = _dataset(text)
    elif isinstance(text, FileText):
        texts = _files(text, folder)
    else:
        texts = _python_docs()
    if getattr(text, "wikitext_spacing", False):
        return map(natural_spacing, _articles(texts))
    return texts


def natural_spacing(text: str) -> str:
    """Wikitext without the spaces of its tokenisation and without `<unk>`."""
    for pattern, replacement in _SPACING:
        text = pattern.sub(replacement, text)
    return text


def pack(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    n_documents: int,
    context: int,
    prepend_bos: bool,
) -> Contexts:
    """The first contexts of the texts, run together with the end-of-text token between them.

    A context has `context` tokens, the BOS token included if it is prepended; where the text ends
    there are fewer than `n_documents`.

    Raises:
        UsageError: the text is shorter than one context, or the tokenizer has no BOS token.
    """
    bos = tokenizer.bos_token_id
    if prepend_bos and bos is None:
        raise UsageError(
            "contexts are to begin with a BOS token, but the model's tokenizer has none; write "
            "`place: {prepend_bos: false}` into the suite"
        )
    body = context - prepend_bos
    stream = np.fromiter(
        islice(_token_stream(texts, tokenizer), n_documents * body + 1), dtype=np.int64
    )
    n_found = (len(stream) - 1) // body
    if n_found < 1:
        raise UsageError(
            f"the text has {len(stream)} tokens, less than one context of {context} and its "
            "next token; give a longer one with --text"
        )
    tokens = stream[: n_found * body].reshape(n_found, body)
    labels = stream[1 : n_found * body + 1].reshape(n_found, body)
    if not prepend_bos:
        return Contexts(tokens, labels)
    first = np.full((n_found, 1), bos)
    return Contexts(np.hstack([first, tokens]), np.hstack([tokens[:, :1], labels]))


def _token_stream(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[int]:
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    texts = iter(texts)
    while batch := list(islice(texts, BATCH_TEXTS)):
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            yield from ids
            yield from separator


def _articles(lines: Iterable[str]) -> Iterator[str]:
    """Wikitext's lines, or whole files of them, joined into its articles."""
    article: list[str] = []
    for text in lines:
        for line in text.splitlines(keepends=True) or ["\n"]:
            if _TOP_HEADING.match(line.rstrip("\n")) and article:
                yield "".join(article)
                article = []
            article.append(line)
    if article:
        yield "".join(article)


def _python_docs() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _files(text: FileText, folder: Path) -> Iterator[str]:
    path = folder / expanded(text.path)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix == ".txt" or f.suffix in BUILDERS)
    else:
        files = [path]
    if not files or not all(file.is_file() for file in files):
        endings = ", ".join([".txt", *BUILDERS])
        raise MissingTextError(f"{path}: no such text, or a folder without any {endings} file")
    for file in files:
        yield from _file(file, text.column)


def _file(file: Path, column: str) -> Iterator[str]:
    if file.suffix not in BUILDERS:
        try:
            yield file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: cannot be read as text: {error}") from error
        return
    import datasets

    try:
        rows = datasets.load_dataset(
            BUILDERS[file.suffix], data_files=str(file), split="train", streaming=True
        )
        for row in rows:
            if column not in row:
                raise UsageError(f"{file}: no column {column!r}, but {', '.join(row)}")
            yield _text_of(row, column, file)
    except (OSError, ValueError, StopIteration, datasets.exceptions.DatasetsError) as error:
        reason = str(error) or "it is empty"
        raise UsageError(f"{file}: cannot be read: {reason}") from error


def _dataset(text: HubText) -> Iterator[str]:
    import datasets

    where = f"dataset {text.dataset}"
    with _loading_errors(text.dataset):
        rows = datasets.load_dataset(
            text.dataset, text.config, split=text.split, revision=text.revision
        )
    if text.column not in rows.column_names:
        raise SuiteError(f"{where}: no column {text.column!r}, but {rows.column_names}")
    return (_text_of(row, text.column, where) for row in rows)


@contextmanager
def _loading_errors(dataset: str) -> Iterator[None]:
    """Turn whatever `datasets` raises while it loads a dataset into errors that name it."""
    from datasets.exceptions import DatasetsError

    try:
        with from_cache_if_unreachable(dataset):
            yield
    except Exception as error:
        heed_shortage(error)
        if isinstance(error, HubError) or is_hub_error(error):
            found = error if isinstance(error, HubError) else explained(error, dataset)
            reason = str(found).rstrip(".")
            raise HubError(f"dataset {reason}; or give a text of yours with --text") from error
        if isinstance(error, OSError | DatasetsError) or str(error).startswith(UNPREPARED):
            raise HubError(
                f"dataset {dataset}: not available ({first_line(error)}); run `mdlbench fetch` "
                "where the hub can be reached, or give a text of yours with --text"
            ) from error
        raise SuiteError(
            f"dataset {dataset} cannot be loaded: {first_line(error).rstrip('.')}; name another in "
            "the suite, or give a text of yours with --text"
        ) from error


def _text_of(row: Mapping[str, object], column: str, where: object) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise UsageError(f"{where}: column {column!r} holds {value!r:.40}, which is not text")
    return value
