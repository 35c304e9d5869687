"""A model from a GGUF file is converted once a machine, and stays the same to the bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from mdlbench.disk.cache import kept
from mdlbench.disk.files import sha256_of
from mdlbench.errors import HubError, MdlbenchWarning
from mdlbench.sources.kinds.language import PackagedModel
from mdlbench.sources.language import load
from mdlbench.sources.language.load import load_model
from tests.tiny_language import D_MODEL, N_HEADS, N_LAYERS

SPECIAL = ["<unk>", "<s>", "</s>"]
LETTERS = [chr(97 + i) for i in range(26)]
TOKENS = [*SPECIAL, *LETTERS, "Ġ", "th", "the", "Ġa"]
MERGES = ["t h", "th e", "Ġ a"]
TEXT = ["the a thaw", "<s>a</s> b"]


def write_gguf(path: Path) -> None:
    """A Llama of random weights, its embeddings tied, its matrices quantised to 8 bits."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(16)
    writer.add_embedding_length(2 * D_MODEL)
    writer.add_feed_forward_length(32)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(1234.0)
    writer.add_layer_norm_rms_eps(1e-4)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator, d = np.random.default_rng(0), 2 * D_MODEL
    shapes = {"token_embd": (len(TOKENS), d), "output_norm": (d,)}
    for layer in range(N_LAYERS):
        parts = {
            "attn_norm": (d,),
            "attn_q": (d, d),
            "attn_k": (d // N_HEADS, d),
            "attn_v": (d // N_HEADS, d),
            "attn_output": (d, d),
            "ffn_norm": (d,),
            "ffn_gate": (32, d),
            "ffn_up": (32, d),
            "ffn_down": (d, 32),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        array = generator.normal(size=shape).astype(np.float32) * 0.3
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", array + 1)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The tiny model as a suite names it; reading its file is counted in `reads`."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "ensure", lambda *_: path)
    config = PackagedModel(
        kind="package", name="tiny", package="p", version="1", file="t", sha256=sha256_of(path)
    )
    reads = []
    original = load._load

    def counted(folder, dtype, **options):
        reads.append("gguf_file" in options)
        return original(folder, dtype, **options)

    monkeypatch.setattr(load, "_load", counted)
    return config, reads


def loaded(config, dtype=torch.float32):
    return load_model(config, {}, "cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_converted_model_is_the_same_to_the_bit(tiny, monkeypatch, dtype):
    config, reads = tiny
    converted, again = loaded(config, dtype), loaded(config, dtype)
    assert reads == [True, False, False]
    monkeypatch.setenv("MDLBENCH_CACHE_LIMIT", "0")
    kept().clear()
    plain = loaded(config, dtype)
    assert reads == [True, False, False, True]
    tokens = torch.arange(12)[None]
    logits = plain._model(tokens).logits
    for model in (converted, again):
        assert model.sha256 == plain.sha256
        assert torch.equal(model._model(tokens).logits, logits)
        assert model.tokenizer.all_special_ids == plain.tokenizer.all_special_ids == [1, 2]
        assert model.tokenizer.bos_token_id == plain.tokenizer.bos_token_id == 1
        assert model.tokenizer.eos_token_id == plain.tokenizer.eos_token_id == 2
        assert model.tokenizer.backend_tokenizer.to_str() == (
            plain.tokenizer.backend_tokenizer.to_str()
        )
        ids = [m.tokenizer(TEXT, add_special_tokens=False)["input_ids"] for m in (model, plain)]
        assert ids[0] == ids[1]
    assert ids[0][0][0] == TOKENS.index("the")
    assert converted.settings == again.settings


def test_each_precision_is_converted_by_itself(tiny):
    config, reads = tiny
    digests = {loaded(config, dtype).sha256 for dtype in (torch.float32, torch.bfloat16)}
    assert len(digests) == 2
    assert reads == [True, False, True, False]
    assert {one.what for one in kept().held("weights")} == {"tiny, float32", "tiny, bfloat16"}


def test_converted_weights_that_are_altered_are_made_again(tiny):
    config, reads = tiny
    before = loaded(config).sha256
    (held,) = kept().held()
    content = bytearray((held.folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (held.folder / "model.safetensors").write_bytes(content)
    reads.clear()
    with pytest.warns(MdlbenchWarning, match=r"model\.safetensors has another content"):
        assert loaded(config).sha256 == before
    assert reads == [True, False]


def test_a_file_that_is_no_model_leaves_nothing(tiny, monkeypatch, tmp_path):
    config, _ = tiny
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(HubError, match="not a GGUF model that can be read"):
        loaded(config)
    assert kept().held() == []
