"""A model hub in a folder: a small trained GPT-2, the published SAEs' repositories, and a text.

Repository and file names, configs and layout of the caches are the hub's own; only weights and text
are not. The model has 12 blocks of width 48 and was trained for seconds on Python's documentation;
every SAE is fitted to its activations in closed form. So what loads and scores the real ones runs
unchanged, without a network:

    python -m tests.surrogate_hub FOLDER
    HF_HOME=FOLDER HF_HUB_OFFLINE=1 mdlbench eval --suite gpt2-l8
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from safetensors.torch import save

N_BLOCKS, N_HEADS, WIDTH, CONTEXT, VOCABULARY = 12, 4, 48, 128, 512
BATCH = 4
N_FITTED = 32
"""Contexts whose activations the SAEs are fitted to."""
LAYER = 8

TEXT_REPOSITORY = "NeelNanda/pile-10k"
TEXT_REVISION = "127bfedcd5047750df5ccf3a12979a47bfa0bafa"
TEXT_FILE = "data/train-00000-of-00001-4746b8785c874cc7.parquet"
MLP_TM_SCALE = 0.9123762783479742
"""`norm_scaling_factor` of the release gpt2-small-mlp-tm."""

Files = dict[str, bytes]
Weights = dict[str, torch.Tensor]
Activations = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """An SAE to write.

    Attributes:
        repository, path: where the release keeps it.
        hook: what it reads.
        d_sae: latents, far fewer than the real one has.
        l0: of standard SAEs, active latents per token; the TopK ones have k = 32.
        style: whose config and conventions it follows.
    """

    repository: str
    path: str
    hook: str
    d_sae: int
    l0: float = 12
    style: str = "res-jb"


def plans() -> Iterator[Plan]:
    """The 19 SAEs at layer 8, and those of gpt2-small-res-jb at the other layers."""
    jb = "jbloom/GPT2-Small-SAEs-Reformatted"
    hooks = [f"blocks.{i}.hook_resid_pre" for i in range(N_BLOCKS)] + ["blocks.11.hook_resid_post"]
    for hook in hooks:
        yield Plan(jb, hook, hook, d_sae=192)
    splitting = "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8"
    hook = f"blocks.{LAYER}.hook_resid_pre"
    for name, d_sae in zip(
        (768, 1536, 3072, 6144, 12288, 24576, 49152, 98304),
        (32, 64, 96, 128, 160, 192, 256, 384),
        strict=True,
    ):
        yield Plan(splitting, f"{hook}_{name}", hook, d_sae, l0=8 + d_sae / 16)
    for place in ("resid-post", "resid-mid", "attn-out", "mlp-out"):
        for size, d_sae in (("32k", 128), ("128k", 256)):
            suffix = ".pt" if (place, size) == ("resid-post", "32k") else ""
            yield Plan(
                f"jbloom/GPT2-Small-OAI-v5-{size}-{place}-SAEs",
                f"v5_{size}_layer_{LAYER}{suffix}",
                f"blocks.{LAYER}.hook_{place.replace('-', '_')}",
                d_sae,
                style="oai-v5",
            )
    mlp_out = f"blocks.{LAYER}.hook_mlp_out"
    tm = f"sae_group_gpt2_{mlp_out}_24576:v1"
    yield Plan("tommmcgrath/gpt2-small-mlp-out-saes", tm, mlp_out, 192, style="mlp-tm")
    settings = "lr1.20e-03_l11.30e+00_ds24576_bs4096_dc1.00e-05_rsanthropic_rie25000_nr4_v6"
    kk = f"gpt2-small_L{LAYER}_Hcat_z_{settings}.pt"
    z = f"blocks.{LAYER}.attn.hook_z"
    yield Plan("ckkissane/attn-saes-gpt2-small-all-layers", kk, z, 192, style="hook-z")


def write_surrogate_hub(folder: Path) -> Path:
    """Write the hub's caches into a folder, which is then what `HF_HOME` must name."""
    hub, threads = folder / "hub", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        texts = python_docs()
        tokenizer = train_tokenizer(texts)
        tokens = torch.tensor([i for text in texts for i in [*tokenizer.encode(text).ids, 0]])
        model = train_model(tokens)
        write_repository(hub, "gpt2", model_files(model, tokenizer))
        for repository, files in sae_files(model, tokens).items():
            write_repository(hub, repository, files)
    finally:
        torch.set_num_threads(threads)
    write_dataset(folder, texts)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Variables with which a process finds its hub in that folder, and no other."""
    return {
        "HF_HOME": str(folder),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",
    }


def python_docs() -> list[str]:
    """Real English text that comes with Python, in a fixed order."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer as GPT-2's, with one special token, which comes first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_model(tokens: torch.Tensor) -> Any:
    """GPT-2's architecture, trained to well below the entropy of a uniform guess.

    First with block 8 alone, so that what the SAEs there read and write matters, then whole.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_ctx=CONTEXT,
        n_embd=WIDTH,
        n_layer=N_BLOCKS,
        n_head=N_HEADS,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    model.transformer.wpe.weight.data = 0.1 * sinusoids(CONTEXT, WIDTH)
    blocks = model.transformer.h
    model.transformer.h = torch.nn.ModuleList([blocks[LAYER]])
    descend(model, tokens, steps=600, learning_rate=1e-2)
    model.transformer.h = blocks
    descend(model, tokens, steps=30, learning_rate=3e-3)
    return model.eval()


def sinusoids(n: int, width: int) -> torch.Tensor:
    """[n, width]: positions as waves, from which attention soon learns to look one token back."""
    angles = torch.arange(n)[:, None] * torch.exp(-torch.arange(0, width, 2) / width * 5)
    return torch.cat([angles.sin(), angles.cos()], 1)


def descend(model: Any, tokens: torch.Tensor, steps: int, learning_rate: float) -> None:
    """Adam on contexts from random places of the text."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        start = torch.randint(len(tokens) - CONTEXT - 1, (BATCH, 1), generator=generator)
        batch = tokens[start + torch.arange(CONTEXT + 1)]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def model_files(model: Any, tokenizer: Any) -> Files:
    """The files of a GPT-2 repository."""
    vocabulary = json.loads(tokenizer.to_str())["model"]
    merges = "".join(" ".join(pair) + "\n" for pair in vocabulary["merges"])
    weights = {
        name.removeprefix("transformer."): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    config = model.config.to_dict() | {"architectures": ["GPT2LMHeadModel"]}
    special = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk")}
    tokenizer_config = {
        "model_max_length": CONTEXT,
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        **special,
    }
    return {
        "config.json": as_json(config),
        "generation_config.json": as_json({"bos_token_id": 0, "eos_token_id": 0}),
        "merges.txt": f"#version: 0.2\n{merges}".encode(),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": as_json(tokenizer_config),
        "vocab.json": as_json(vocabulary["vocab"]),
    }


@torch.no_grad()
def activations(model: Any, tokens: torch.Tensor) -> Activations:
    """[token, width] at every hook point of `plans`, of contexts that begin with BOS, without it.

    Tensors written to the residual stream keep their mean here; `fit` takes it away where the
    release's model has centred writing weights.
    """
    kept: Activations = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        kept[name] = tensor[:, 1:].flatten(0, 1)

    blocks = model.transformer.h
    handles = []
    for i, block in enumerate(blocks):
        handles.append(
            block.register_forward_pre_hook(
                lambda _, args, i=i: keep(f"blocks.{i}.hook_resid_pre", args[0])
            )
        )
    block, here = blocks[LAYER], f"blocks.{LAYER}"
    for module, name in (
        (block.attn.c_proj, f"{here}.hook_attn_out"),
        (block.mlp, f"{here}.hook_mlp_out"),
    ):
        handles.append(module.register_forward_hook(lambda *io, name=name: keep(name, io[2])))
    handles += [
        block.attn.c_proj.register_forward_pre_hook(
            lambda _, args: keep(f"{here}.attn.hook_z", args[0])
        ),
        block.ln_2.register_forward_pre_hook(
            lambda _, args: keep(f"{here}.hook_resid_mid", args[0])
        ),
        model.transformer.ln_f.register_forward_pre_hook(
            lambda _, args: keep(f"blocks.{N_BLOCKS - 1}.hook_resid_post", args[0])
        ),
    ]
    contexts = tokens[: N_FITTED * (CONTEXT - 1)].view(N_FITTED, CONTEXT - 1)
    model(torch.nn.functional.pad(contexts, (1, 0)))
    for handle in handles:
        handle.remove()
    kept[f"{here}.hook_resid_post"] = kept[f"blocks.{LAYER + 1}.hook_resid_pre"]
    return kept


def sae_files(model: Any, tokens: torch.Tensor) -> dict[str, Files]:
    """The files of every SAE repository."""
    found = activations(model, tokens)
    repositories: dict[str, Files] = {}
    for plan in plans():
        files = STYLES[plan.style](plan, found[plan.hook])
        repositories.setdefault(plan.repository, {}).update(files)
    return repositories


def dictionary(x: torch.Tensor, d_sae: int, l0: float, k: int | None = None) -> Weights:
    """An SAE that reconstructs x [token, d_in]: chosen directions, a decoder by least squares.

    The directions are the principal ones, with either sign, and then those towards single tokens.
    One threshold for all latents lets l0 of them fire on an average token; with `k`, the k largest.
    """
    mean = x.mean(0)
    centred = x - mean
    axes = torch.linalg.svd(centred, full_matrices=False).Vh
    generator = torch.Generator().manual_seed(d_sae)
    some = centred[torch.randperm(len(x), generator=generator)[:d_sae]]
    rows = torch.cat([torch.stack([axes, -axes], 1).flatten(0, 1), some])[:d_sae]
    W_enc = (rows / rows.norm(dim=1, keepdim=True)).T.contiguous()
    pre = centred @ W_enc
    b_enc = torch.zeros(d_sae)
    if k is None:
        b_enc = -torch.quantile(pre.flatten(), 1 - l0 / d_sae).expand(d_sae)
    latents = (pre + b_enc).relu()
    if k is not None:
        latents *= latents >= latents.topk(k, dim=1).values[:, -1:]
    features = torch.cat([latents, torch.ones(len(x), 1)], 1).double()
    gram = features.T @ features
    ridge = 1e-4 * gram.diagonal().mean() * torch.eye(d_sae + 1, dtype=torch.float64)
    solution = torch.linalg.solve(gram + ridge, features.T @ centred.double()).float()
    W_dec, shift = solution[:-1].contiguous(), solution[-1]
    return {
        "W_enc": W_enc,
        "b_enc": b_enc + shift @ W_enc,
        "W_dec": W_dec,
        "b_dec": mean + shift,
    }


def without_mean(x: torch.Tensor) -> torch.Tensor:
    """What a model with centred writing weights has there."""
    return x - x.mean(1, keepdim=True)


def old_config(plan: Plan, d_in: int, **more: object) -> dict[str, object]:
    """`cfg.json` as SAELens wrote it before version 6."""
    return {
        "model_name": "gpt2-small",
        "hook_point_layer": LAYER,
        "hook_point_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "d_in": d_in,
        "d_sae": plan.d_sae,
        "dtype": "torch.float32",
        "device": "cpu",
        **more,
    }


def sae_folder(plan: Plan, config: Mapping[str, object], weights: Weights, sparse: bool) -> Files:
    files = {
        f"{plan.path}/cfg.json": as_json(config),
        f"{plan.path}/sae_weights.safetensors": save(weights),
    }
    if sparse:
        log_sparsity = torch.full((plan.d_sae,), plan.l0 / plan.d_sae).log10()
        files[f"{plan.path}/sparsity.safetensors"] = save({"sparsity": log_sparsity})
    return files


def res_jb(plan: Plan, x: torch.Tensor) -> Files:
    """Standard SAEs on the centred residual stream; their configs say nothing of BOS."""
    config = old_config(plan, WIDTH, hook_point=plan.hook, context_size=CONTEXT)
    weights = dictionary(without_mean(x), plan.d_sae, plan.l0)
    return sae_folder(plan, config, weights, sparse=True)


def oai_v5(plan: Plan, x: torch.Tensor) -> Files:
    """TopK SAEs on layer-normalised activations, contexts of 64 tokens without BOS."""
    config = old_config(
        plan,
        WIDTH,
        hook_name=plan.hook,
        context_size=64,
        prepend_bos=False,
        normalize_activations="layer_norm",
        apply_b_dec_to_input=True,
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 32},
    )
    normalised = without_mean(x) / (x.std(1, keepdim=True) + 1e-5)
    weights = dictionary(normalised, plan.d_sae, plan.l0, k=32)
    return sae_folder(plan, config, weights, sparse=False)


def mlp_tm(plan: Plan, x: torch.Tensor) -> Files:
    """A standard SAE on centred activations times the release's scaling factor."""
    config = old_config(
        plan,
        WIDTH,
        hook_name=plan.hook,
        context_size=CONTEXT,
        prepend_bos=True,
        normalize_activations="expected_average_only_in",
        activation_fn_str="relu",
    )
    weights = dictionary(without_mean(x) * MLP_TM_SCALE, plan.d_sae, plan.l0)
    return sae_folder(plan, config, weights, sparse=True)


def hook_z(plan: Plan, x: torch.Tensor) -> Files:
    """A state dict saved by torch, and a config beside it, in the author's own words."""
    config = {
        "act_name": plan.hook,
        "act_size": WIDTH,
        "dict_size": plan.d_sae,
        "d_mlp": 4 * WIDTH,
        "layer": LAYER,
        "seq_len": CONTEXT,
        "site": "z",
    }
    buffer = io.BytesIO()
    torch.save(dictionary(x, plan.d_sae, plan.l0), buffer)
    return {
        plan.path: buffer.getvalue(),
        plan.path.removesuffix(".pt") + "_cfg.json": as_json(config),
    }


STYLES = {"res-jb": res_jb, "oai-v5": oai_v5, "mlp-tm": mlp_tm, "hook-z": hook_z}


def write_dataset(folder: Path, texts: list[str]) -> None:
    """A dataset: its repository, and the copy that `datasets` makes once and reads offline."""
    import pyarrow
    import pyarrow.parquet

    table, buffer = pyarrow.table({"text": texts}), io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    files = {TEXT_FILE: buffer.getvalue()}
    write_repository(folder / "hub", TEXT_REPOSITORY, files, "dataset", commit=TEXT_REVISION)
    owner, name = TEXT_REPOSITORY.split("/")
    prepared = folder / "datasets" / f"{owner}___{name}" / "default" / "0.0.0" / TEXT_REVISION
    prepared.mkdir(parents=True)
    with (
        pyarrow.OSFile(str(prepared / f"{name}-train.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    split = {"name": "train", "num_bytes": table.nbytes, "num_examples": len(texts)}
    info = {
        "builder_name": "parquet",
        "dataset_name": name,
        "config_name": "default",
        "features": {"text": {"dtype": "string", "_type": "Value"}},
        "splits": {"train": split | {"dataset_name": name}},
    }
    (prepared / "dataset_info.json").write_bytes(as_json(info))


def as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()


def write_repository(
    cache: Path, repo: str, files: Files, repo_type: str = "model", commit: str | None = None
) -> None:
    """A repository as the hub's client caches it: blobs, and links to them from a snapshot."""
    folder = cache / f"{repo_type}s--{repo.replace('/', '--')}"
    etags = {name: etag(name, content) for name, content in files.items()}
    commit = commit or hashlib.sha1(json.dumps(etags, sort_keys=True).encode()).hexdigest()
    for name, content in files.items():
        blob = folder / "blobs" / etags[name]
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        up = [".."] * len(link.parent.relative_to(folder).parts)
        link.symlink_to(Path(*up, "blobs", blob.name))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


def etag(name: str, content: bytes) -> str:
    """What the hub calls a file's content: SHA-256 in large-file storage, else git's SHA-1."""
    if Path(name).suffix in (".safetensors", ".pt", ".parquet"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Answers as the hub does for the model repositories of a cache."""

    cache: Path

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        status, headers, body = self.found(unquote(self.path).strip("/"))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def found(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api = path.startswith("api/models/")
        repo, _, rest = path.removeprefix("api/models/").partition("/revision/")
        if not api:
            repo, _, rest = path.partition("/resolve/")
        folder = self.cache / f"models--{repo.replace('/', '--')}"
        if not folder.is_dir():
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = (folder / "refs" / "main").read_text()
        snapshot = folder / "snapshots" / commit
        if api:
            files = sorted(file for file in snapshot.rglob("*") if file.is_file())
            names = [{"rfilename": file.relative_to(snapshot).as_posix()} for file in files]
            said = as_json({"id": repo, "sha": commit, "siblings": names})
            return 200, {"Content-Type": "application/json"}, said
        file = snapshot / rest.partition("/")[2]
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        headers = {"ETag": f'"{file.resolve().name}"', "X-Repo-Commit": commit}
        return 200, headers, file.read_bytes()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server of that folder's models, by the address that `HF_ENDPOINT` must name."""
    handler = type("Handler", (Server,), {"cache": folder / "hub"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    write_surrogate_hub(Path(sys.argv[1]))
