"""Text → token contexts, against contexts packed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mdlbench.console.stages import silent
from mdlbench.errors import HubError, MemoryShortageError, SuiteError, UsageError
from mdlbench.sources.kinds.language import FileText, HubText, PythonDocs
from mdlbench.sources.language.opener import LEAST_DOCUMENTS, TEST_SHARE, LanguageOpener
from mdlbench.sources.language.text import natural_spacing, pack, read
from mdlbench.sources.open import Setting
from mdlbench.suite.site import Site
from tests.tiny_language import Characters, language_suite

SHARED = Path(__file__).parents[2] / "shared" / "data" / "wikitext-2"
BOS, EOS = 0, 7


def opener(suite, source=None, on_stage=silent, **setting):
    return LanguageOpener(source or suite.source, suite, Setting(**setting), on_stage)


def ids(text):
    return [Characters.id(character) for character in text]


class WithoutBos(Characters):
    bos_token_id = None


class WithoutEos(Characters):
    eos_token_id = None


# --- packing ----------------------------------------------------------------------------------


def test_contexts_without_bos_are_the_stream_in_pieces():
    packed = pack(["abc", "defgh"], Characters(), 10, context=4, prepend_bos=False)
    stream = [*ids("abc"), EOS, *ids("defgh"), EOS]
    assert packed.tokens.tolist() == [stream[0:4], stream[4:8]]
    assert packed.labels.tolist() == [stream[1:5], stream[5:9]]


def test_contexts_with_bos_have_it_first_and_lose_no_token():
    packed = pack(["abc", "defgh"], Characters(), 10, context=4, prepend_bos=True)
    stream = [*ids("abc"), EOS, *ids("defgh"), EOS]
    assert packed.tokens.tolist() == [[BOS, *stream[0:3]], [BOS, *stream[3:6]], [BOS, *stream[6:9]]]
    assert packed.labels.tolist() == [stream[0:4], stream[3:7], stream[6:10]]


def test_a_label_is_the_token_that_follows_in_the_text():
    text = "".join(chr(97 + i % 26) for i in range(200))
    for prepend_bos in (False, True):
        packed = pack([text], Characters(), 6, context=8, prepend_bos=prepend_bos)
        assert packed.tokens.shape == packed.labels.shape == (6, 8)
        assert np.array_equal(packed.tokens[:, 1:], packed.labels[:, :-1])
        first = packed.tokens[1:, int(prepend_bos)]
        assert np.array_equal(packed.labels[:-1, -1], first)


def test_texts_are_run_together_without_a_separator_that_there_is_not():
    packed = pack(["ab", "cde"], WithoutEos(), 10, context=4, prepend_bos=False)
    assert packed.tokens.tolist() == [ids("abcd")]
    assert packed.labels.tolist() == [ids("bcde")]


def test_only_as_much_text_is_read_as_is_asked_for():
    def endless():
        while True:
            yield "abcdefgh"

    packed = pack(endless(), Characters(), 3, context=5, prepend_bos=True)
    assert packed.tokens.shape == (3, 5)


def test_more_texts_than_go_to_the_tokenizer_at_once():
    texts = [chr(97 + i % 26) * (i % 5) for i in range(300)]
    packed = pack(texts, Characters(), 10_000, context=3, prepend_bos=False)
    stream = [token for text in texts for token in [*ids(text), EOS]]
    n = (len(stream) - 1) // 3
    assert packed.tokens.ravel().tolist() == stream[: 3 * n]
    assert packed.labels.ravel().tolist() == stream[1 : 3 * n + 1]


@pytest.mark.parametrize(
    ("text", "context", "bos"), [("abc", 4, False), ("ab", 5, True), ("", 2, False)]
)
def test_a_text_shorter_than_a_context_is_refused(text, context, bos):
    with pytest.raises(UsageError, match=rf"has {len(text) + 1} tokens, less than one context of"):
        pack([text], Characters(), 1, context, bos)


def test_a_text_of_exactly_one_context_and_its_next_token():
    assert len(pack(["abcd"], Characters(), 5, context=4, prepend_bos=False).tokens) == 1


def test_no_text_at_all_is_refused():
    with pytest.raises(UsageError, match="has 0 tokens"):
        pack([], Characters(), 1, 4, False)


def test_a_tokenizer_without_bos_is_refused_where_one_is_wanted():
    with pytest.raises(UsageError, match="begin with a BOS token, but the model's tokenizer has"):
        pack(["abcdef"], WithoutBos(), 1, 4, True)
    assert len(pack(["abcdef"], WithoutBos(), 1, 4, False).tokens) == 1


# --- wikitext ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokenised", "natural"),
    [
        ("a blue @-@ green sea , and 1 @,@ 200 @.@ 5 men .", "a blue-green sea, and 1,200.5 men."),
        ("he was <unk> , then", "he was, then"),
        ("( see below ) ; it 's so", "(see below); it's so"),
        ("they do n't ; we 'll", "they don't; we'll"),
        ('he said " yes " twice', 'he said "yes" twice'),
        ("what ? No ! Yes : $ 5", "what? No! Yes: $5"),
        ("[ a ] 50 %", "[a] 50%"),
        ("nothing to undo\nhere", "nothing to undo\nhere"),
    ],
)
def test_the_spacing_of_wikitext_is_undone(tokenised, natural):
    assert natural_spacing(tokenised) == natural


WIKITEXT = [
    "",
    " = First = \n",
    "",
    " Its text , so to say . \n",
    " = = A section = = \n",
    " More . \n",
    " = Second = \n",
    " End . \n",
]


@pytest.mark.parametrize("as_lines", [True, False])
def test_articles_are_whole_whether_a_text_is_a_line_or_a_file(tmp_path, as_lines):
    if as_lines:
        file = tmp_path / "lines.jsonl"
        file.write_text("".join(json.dumps({"text": line}) + "\n" for line in WIKITEXT))
    else:
        file = tmp_path / "whole.txt"
        file.write_text("".join(line or "\n" for line in WIKITEXT))
    text = FileText(kind="file", name="w", path=file.name, wikitext_spacing=True)
    blank, first, second = read(text, tmp_path)
    assert blank == "\n"
    assert first == " = First = \n\n Its text, so to say. \n = = A section = = \n More. \n"
    assert second == " = Second = \n End. \n"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no wikitext here")
def test_real_wikitext_reads_as_prose():
    text = FileText(kind="file", name="w", path="valid.txt", wikitext_spacing=True)
    articles = list(read(text, SHARED))
    assert len(articles) > 50
    whole = "".join(articles)
    for trace in (" @-@ ", " @,@ ", "<unk>", " , ", " 's "):
        assert trace not in whole


# --- where text comes from --------------------------------------------------------------------


def file_text(path, **changes):
    return FileText(kind="file", name="mine", path=str(path), **changes)


def test_a_file_is_one_text(tmp_path):
    (tmp_path / "a.txt").write_text("One.\nTwo.\n", encoding="utf-8")
    assert list(read(file_text("a.txt"), tmp_path)) == ["One.\nTwo.\n"]
    assert list(read(file_text(tmp_path / "a.txt"), Path("/nowhere"))) == ["One.\nTwo.\n"]


def test_a_folder_is_its_files_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "a.jsonl").write_text('{"text": "a1"}\n{"text": "a2"}\n')
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / "inner").mkdir()
    assert list(read(file_text("."), tmp_path)) == ["a1", "a2", "b"]


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
def test_tables_give_a_text_a_row(tmp_path, ending):
    import pandas as pd

    rows = pd.DataFrame({"text": ["one", "two, or", 'a "third"'], "body": ["x", "y", "z"]})
    file = tmp_path / f"a.{ending}"
    writers = {
        "jsonl": lambda: rows.to_json(file, orient="records", lines=True),
        "json": lambda: rows.to_json(file, orient="records"),
        "parquet": lambda: rows.to_parquet(file),
        "csv": lambda: rows.to_csv(file, index=False),
    }
    writers[ending]()
    assert list(read(file_text(file), tmp_path)) == ["one", "two, or", 'a "third"']
    assert list(read(file_text(file, column="body"), tmp_path)) == ["x", "y", "z"]
    with pytest.raises(UsageError, match=rf"a\.{ending}: no column 'txet', but .*text.*body"):
        list(read(file_text(file, column="txet"), tmp_path))


@pytest.mark.parametrize("value", ["null", "3", '["a"]'])
def test_a_value_that_is_no_text_is_named(tmp_path, value):
    (tmp_path / "a.jsonl").write_text(f'{{"text": {value}}}\n')
    with pytest.raises(UsageError, match=r"a\.jsonl: column 'text' holds .*, which is not text"):
        list(read(file_text("a.jsonl"), tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"{not json"),
        ("empty.jsonl", b""),
        ("a.parquet", b"not parquet"),
        ("a.txt", b"\xff\xfe\xff"),
        ("a.bin", b"\xff\x00"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: cannot be read"):
        list(read(file_text(name), tmp_path))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.txt: no such text"):
        list(read(file_text("missing.txt"), tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: .*\.txt.*\.parquet"):
        list(read(file_text("empty"), tmp_path))


def test_pythons_documentation_is_english():
    texts = list(read(PythonDocs(kind="python-docs", name="docs"), Path()))
    assert sum(map(len, texts)) > 300_000
    assert any("The assert statement" in text or '"assert" statement' in text for text in texts)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub that cannot be reached, and an empty cache."""
    import datasets
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


HUB_TEXT = HubText(kind="hub", name="wikitext", dataset="Salesforce/wikitext", config="x")


def test_a_dataset_that_cannot_be_reached_says_what_to_do(offline):
    message = r"dataset Salesforce/wikitext is not in the cache .*`mdlbench fetch SUITE`.*--text"
    with pytest.raises(HubError, match=message):
        list(read(HUB_TEXT, Path()))


def refusing(monkeypatch, error):
    import datasets

    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


class ProxyError(Exception):
    """What huggingface_hub's HTTP client raises, an `OSError` by no means."""

    __module__ = "httpx2"


def test_a_proxy_that_refuses_is_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    refusing(monkeypatch, ProxyError("403 Forbidden"))
    message = r"Salesforce/wikitext .*cannot be reached \(ProxyError: 403 Forbidden\).*--text"
    with pytest.raises(HubError, match=message):
        read(HUB_TEXT, Path())
    assert chosen_text(language_suite(tmp_path)) == "own"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("BuilderConfig 'x' not found.\nAvailable: 'y'"), "BuilderConfig 'x' not found"),
        (
            RuntimeError("Dataset scripts are no longer supported, but found openwebtext.py"),
            "Dataset scripts are no longer supported, but found openwebtext.py",
        ),
        (KeyError("text"), "'text'"),
    ],
)
def test_errors_that_are_not_about_the_hub_are_the_datasets(monkeypatch, error, reason):
    refusing(monkeypatch, error)
    with pytest.raises(SuiteError) as told:
        read(HUB_TEXT, Path())
    assert str(told.value) == (
        f"dataset Salesforce/wikitext cannot be loaded: {reason}; name another in the suite, or "
        "give a text of yours with --text"
    )
    refusing(monkeypatch, MemoryError())
    with pytest.raises(MemoryShortageError):
        read(HUB_TEXT, Path())


def test_a_dataset_prepared_with_another_config_alone_cannot_be_had(offline, tmp_path):
    prepared = tmp_path / "cache" / "Salesforce___wikitext" / "other" / "0.0.0" / "abc"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text('{"config_name": "other"}')
    with pytest.raises(HubError, match=r"wikitext: not available \(Couldn't find cache for"):
        read(HUB_TEXT, Path())
    suite = language_suite(tmp_path / "suite")
    texts = [HUB_TEXT, *suite.source.texts[1:]]
    source = suite.source.model_copy(update={"texts": texts})
    assert opener(suite, source).text().name == "own"


def test_a_dataset_of_other_columns(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_dict({"body": ["a"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    with pytest.raises(SuiteError, match=r"Salesforce/wikitext: no column 'text', but \['body'\]"):
        list(read(HUB_TEXT, Path()))


# --- which text, and which of it --------------------------------------------------------------


def chosen_text(suite, **setting):
    return opener(suite, **setting).text().name


def test_the_first_text_that_can_be_had_is_taken(offline, tmp_path):
    suite, told = language_suite(tmp_path), []
    assert opener(suite, on_stage=told.append).text().name == "own"
    assert "wikitext is not available" in told[0]
    assert chosen_text(suite, text="lm:docs") == "docs"


def test_a_file_that_is_missing_is_passed_over(offline, tmp_path):
    suite, told = language_suite(tmp_path), []
    (tmp_path / "own.txt").unlink()
    assert opener(suite, on_stage=told.append).text().name == "docs"
    assert [line.partition(" ")[0] for line in told] == ["wikitext", "own"]
    assert "own.txt: no such text" in told[1]
    assert chosen_text(suite, text="own") == "own"
    with pytest.raises(UsageError, match=r"own\.txt: no such text"):
        splits(suite)


def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path):
    suite = language_suite(tmp_path)
    (tmp_path / "own.txt").write_bytes(b"\xff")
    source = suite.source.model_copy(update={"texts": suite.source.texts[1:]})
    with pytest.raises(UsageError, match=r"own\.txt: cannot be read as text"):
        opener(suite, source).text()


def test_where_no_text_can_be_had_every_reason_is_said(offline, tmp_path):
    suite = language_suite(tmp_path)
    (tmp_path / "own.txt").unlink()
    (tmp_path / "rows.csv").write_text("text\n")
    empty = file_text("rows.csv").model_copy(update={"name": "rows"})
    texts = [*suite.source.texts[:2], empty]
    source = suite.source.model_copy(update={"texts": texts})
    with pytest.raises(HubError) as caught:
        opener(suite, source).text()
    for reason in (
        "wikitext is not available: dataset Salesforce/wikitext is not in the cache",
        f"own is not available: {tmp_path / 'own.txt'}: no such text",
        "rows is not available: it is empty",
    ):
        assert reason in str(caught.value)
    source = suite.source.model_copy(update={"texts": texts[1:2]})
    assert opener(suite, source).text().name == "own"


def test_a_text_of_ones_own(offline, tmp_path):
    suite = language_suite(tmp_path)
    mine = tmp_path / "My Novel (2).txt"
    mine.write_text("Call me Ishmael.")
    assert chosen_text(suite, text=str(mine)) == "my-novel-2"
    with pytest.raises(UsageError, match=r"--text doc: no such file\. Did you mean 'docs'"):
        chosen_text(suite, text="doc")


def test_a_name_that_is_a_path_too_is_refused_with_both_spellings(offline, tmp_path, monkeypatch):
    suite = language_suite(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert chosen_text(suite, text="docs") == "docs"
    (tmp_path / "docs").write_text("Call me Ishmael.")
    with pytest.raises(UsageError) as caught:
        chosen_text(suite, text="docs")
    name = suite.name
    assert str(caught.value) == (
        f"--text docs: a text of suite {name!r} and a path here: write {name}:docs for the one, "
        "./docs for the other"
    )
    assert opener(suite, text=f"{name}:docs").text().kind == "python-docs"
    assert opener(suite, text="./docs").text().path == str(tmp_path / "docs")


def splits(suite, site=None, **setting):
    place = site or Site(hook="blocks.1.hook_resid_pre", context=8, prepend_bos=True, text="own")
    return opener(suite, text="own", **setting).contexts(place, Characters())


def rows(contexts):
    return {tuple(row) for row in contexts.tokens.tolist()}


def test_splits_are_disjoint_contexts_within_their_budgets(tmp_path):
    found = splits(language_suite(tmp_path))
    assert len(found["calibration"].tokens) == 100
    assert len(found["test"].tokens) == 10
    assert rows(found["calibration"]).isdisjoint(rows(found["test"]))
    again = splits(language_suite(tmp_path))
    for split in ("calibration", "test"):
        assert np.array_equal(found[split].tokens, again[split].tokens)
        assert np.array_equal(found[split].labels, again[split].labels)


def test_other_budgets_never_train_on_what_is_tested(tmp_path):
    suite = language_suite(tmp_path)
    usual, large = splits(suite), splits(suite, calibration_tokens=3000)
    assert len(large["calibration"].tokens) == 375
    assert rows(usual["test"]).isdisjoint(rows(large["calibration"]))
    assert rows(large["test"]).isdisjoint(rows(usual["calibration"]))


def test_a_limit_takes_the_first_documents_of_each_split(tmp_path):
    suite = language_suite(tmp_path)
    whole, part = splits(suite), splits(suite, limit=4)
    for split in ("calibration", "test"):
        assert np.array_equal(part[split].tokens, whole[split].tokens[:4])
        assert np.array_equal(part[split].labels, whole[split].labels[:4])


def test_another_seed_splits_otherwise(tmp_path):
    suite = language_suite(tmp_path)
    other = suite.model_copy(update={"seed": 1})
    assert rows(splits(suite)["test"]) != rows(splits(other)["test"])


def test_a_text_for_one_split_alone_is_refused(tmp_path):
    suite = language_suite(tmp_path)
    (tmp_path / "own.txt").write_text("abcdefghijk")
    message = r"text own: its contexts of 8 tokens do not fill two splits: the .* split gets .*"
    with pytest.raises(UsageError, match=rf"{message}give a longer text with --text"):
        splits(suite)


def test_a_handful_of_test_documents_is_refused_unless_a_limit_was_asked_for(tmp_path):
    suite = language_suite(tmp_path)
    draw = np.random.default_rng(suite.seed).random(200) < TEST_SHARE
    fewest = int(np.flatnonzero(draw)[LEAST_DOCUMENTS["test"] - 1]) + 1
    letters = (tmp_path / "own.txt").read_text()
    (tmp_path / "own.txt").write_text(letters[: 7 * (fewest - 1)])
    with pytest.raises(UsageError, match="the test split gets 7 of at least 8; give a longer text"):
        splits(suite)
    assert len(splits(suite, limit=100)["test"].tokens) == 7
    (tmp_path / "own.txt").write_text(letters[: 7 * fewest])
    assert len(splits(suite)["test"].tokens) == 8


def test_a_budget_for_a_handful_of_test_documents_is_refused(tmp_path):
    suite = language_suite(tmp_path, {"tokens": {"calibration": 800, "test": 63}})
    with pytest.raises(UsageError, match=r"gets 7 of at least 8; .* a larger budget of tokens"):
        splits(suite)


def test_a_budget_less_than_a_context_gets_one(tmp_path):
    suite = language_suite(tmp_path, {"tokens": {"calibration": 5, "test": 3}})
    found = splits(suite, limit=2)
    assert [len(found[split].tokens) for split in ("calibration", "test")] == [1, 1]
