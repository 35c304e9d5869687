"""What messages suggest."""

import pytest

from mdlbench.errors import nearest_paths, readable, reason

GEMMA = [
    f"layer_{layer}/width_{width}/average_l0_{l0}"
    for layer, width, l0 in [(2, "16k", 53), (2, "65k", 70), (12, "16k", 70), (20, "16k", 71)]
]


@pytest.mark.parametrize(
    ("path", "choices", "expected"),
    [
        ("layer_2/width_16k/average_l0_70", GEMMA, GEMMA[0]),
        ("layer_20/width_16k/average_l0_70", GEMMA[:1] + GEMMA[3:], GEMMA[3]),
        ("b/cfg.json", ["a/cfg.json", "b.json"], "a/cfg.json"),
        (
            "layers.3/cfg.json",
            ["exp/layers.3/cfg.json", "layers.33/sae.pt"],
            "exp/layers.3/cfg.json",
        ),
        ("blocks.8.hook_resid_post", ["blocks.8.hook_resid_pre", "x"], "blocks.8.hook_resid_pre"),
        ("resjb", ["gpt2-small-res-jb", "zzz"], "gpt2-small-res-jb"),
    ],
)
def test_paths_are_compared_by_their_segments(path: str, choices: list[str], expected: str) -> None:
    assert nearest_paths(path, choices, 3)[0] == expected


def test_what_is_like_nothing_is_not_suggested() -> None:
    assert nearest_paths("a/b", ["xyz/uvw", "q"], 3) == []
    assert nearest_paths("a/b", [], 3) == []


def test_words_longer_than_any_path_are_cut():
    path = "/" + "folder/" * 100
    assert readable(f"{path}: no {'x' * 5000}, {'y' * 1001}.") == (
        f"{path}: no {'x' * 1000}… {'y' * 1000}…"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/path"), "no such file or directory"),
        (OSError("a FIFO, not a regular file"), "a FIFO, not a regular file"),
        (ValueError("Not JSON\nat all"), "Not JSON"),
    ],
)
def test_a_reason_repeats_neither_number_nor_path(error: Exception, said: str) -> None:
    assert reason(error) == said
