"""A language model's activations at a hook point, and its next-token loss with them replaced.

The model runs up to the hook once; the part after the hook runs once for every reconstruction.
Between passes everything lies on disk, so memory does not grow with the number of tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from mdlbench.console.stages import OnStage, silent
from mdlbench.disk.blocks import Blocks, KeptBlocks, block_file
from mdlbench.disk.cache import Recipe, Recipes, kept
from mdlbench.errors import SourceError, SpoolError, UsageError
from mdlbench.sources.language.cut import (
    Activation,
    LanguageModel,
    require_hooks,
    require_readable,
)
from mdlbench.sources.language.harvest import first_array
from mdlbench.sources.language.hooks import Hook, joined, parsed
from mdlbench.sources.language.losses import (
    Clean,
    clean_predictions,
    cross_entropies,
    spliced_losses,
)
from mdlbench.sources.language.splice import OneSplice, SeveralSplice, Splice
from mdlbench.sources.language.text import Contexts, measured
from mdlbench.sources.protocol import SPLITS, Block, SpliceLoss, Split
from mdlbench.suite.site import Site

BLOCK_TOKENS = 1024
ACTIVATIONS = 1
"""Version of what is kept of a model's passes; to be raised when that changes."""
LIBRARIES = ("torch", "transformers")
"""Those that compute activations."""
Found = TypeVar("Found")


class Language:
    """The `ActivationSource` of a language suite at one site.

    Where the site has several hook points, their activations stand side by side, and a splice
    replaces all of them at once. A context is a document. Special tokens and positions before
    `site.first_position` are excluded: they are neither tokens of a block nor ever replaced.

    Args:
        model: the language model.
        splits: the contexts of each split.
        site: where activations are taken.
        on_stage: called with the name of each long computation.
        cache: whether what the model computes is kept for later runs.

    Raises:
        UsageError: the model lacks the hook point or cannot be cut there, tokens lie outside its
            vocabulary, or all of them are excluded.
    """

    def __init__(
        self,
        model: LanguageModel,
        splits: dict[Split, Contexts],
        site: Site,
        on_stage: OnStage = silent,
        cache: bool = False,
    ) -> None:
        self._model, self._splits, self._on_stage = model, splits, on_stage
        self._is_kept = cache
        self.site = site
        self._read, self._replaced = parsed(site.hook), parsed(site.hook_out or site.hook)
        _refuse_missing_layer(model, *self._read, *self._replaced)
        require_hooks(model, self._replaced)
        for hook in self._read:
            require_readable(model, hook)
        _refuse_foreign_tokens(model, splits)
        self.hook = site.hook
        self.image_shape: tuple[int, int] | None = None
        self.device = model.device
        self._masks = {split: self._mask(splits[split]) for split in SPLITS}
        self.n_documents: dict[Split, int] = {s: len(splits[s].tokens) for s in SPLITS}
        self.n_tokens: dict[Split, int] = {s: int(self._masks[s].sum()) for s in SPLITS}
        self._refuse_empty()
        self.data_sha256 = self._digest()
        self._activations = {s: self._block_file("activations", s, cache) for s in SPLITS}
        self._rest = self._block_file("untouched", "test", cache)
        self._ablated = self._block_file("ablated", "test", cache)
        self.widths_in, self.widths_out = self._widths()
        self.d_in, self.d_out = sum(self.widths_in), sum(self.widths_out)
        self._splice = self._splice_at()

    def _block_file(self, content: str, split: Split, cache: bool) -> Blocks:
        """Where a result for each block of a split is, for the run or longer."""
        return block_file("activations", self._recipes(content, split) if cache else None)

    def _recipes(self, content: str, split: Split) -> Recipes:
        """What a result for each block depends on; not on the blocks beside it."""
        model, contexts = self._model, self._splits[split]
        facts = {
            "protocol": ACTIVATIONS,
            "content": content,
            "model": [model.sha256, type(model).__name__, model.settings],
            "hooks": [joined(self._read), joined(self._replaced)],
            "computed by": computed_by(self.device),
        }
        where = " → ".join({joined(self._read): "", joined(self._replaced): ""})

        def recipe(index: int) -> Recipe:
            part = self._part(index)
            arrays = (*(array[part] for array in contexts), self._masks[split][part])
            block = {"index": index, "contexts": _arrays_digest(arrays)}
            return Recipe("activations", f"{model.name} at {where}", facts | block)

        return recipe

    def _widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What is read at each hook point, and replaced.

        From a block where there is one that tells, else from a context.
        """
        found = self._activations["test"].get(0)
        if found is not None and len(self._read) == len(self._replaced) == 1:
            _, activations, *inputs = found
            return ((inputs or [activations])[0].shape[1],), (activations.shape[1],)
        first = self._tensor(self._splits["test"].tokens[:1])
        captured = self._model.capture(first, sorted({*self._read, *self._replaced}))
        read, replaced = (
            tuple(captured[hook].shape[-1] for hook in hooks)
            for hooks in (self._read, self._replaced)
        )
        return read, replaced

    def _splice_at(self) -> Splice:
        if len(self._replaced) == 1:
            return OneSplice(self._model, self._replaced[0])
        return SeveralSplice(self._model, self._replaced, self.widths_out)

    def n_blocks(self, split: Split) -> int:
        return math.ceil(self.n_documents[split] / self._block_documents)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """See `ActivationSource`; each block is computed when it is first asked for, and kept."""
        wanted = range(self.n_blocks(split))[start:stop]
        for index in wanted:
            if index not in self._activations[split]:
                self._run_prefix(split, index)
        for index in wanted:
            found = self._of_prefix(self._activations[split], split, index)
            document, activations, *inputs = found
            yield Block(
                index=index,
                document=document,
                activations=self._tensor(activations),
                inputs=self._tensor(inputs[0]) if inputs else None,
            )

    def harvest(
        self, split: Split, dtype: torch.dtype
    ) -> Iterator[Float[torch.Tensor, "token d_out"]] | None:
        """See `Harvests`; in the cache, if anything is kept there.

        Raises:
            SourceError: an activation is not finite, or too large for `dtype`.
        """
        if not self._is_kept:
            return None
        recipes = self._recipes(f"activations alone, {dtype}", split)
        return self._harvested(KeptBlocks("activations", recipes, kept()), split, dtype)

    def _harvested(
        self, blocks: KeptBlocks, split: Split, dtype: torch.dtype
    ) -> Iterator[torch.Tensor]:
        for index in range(self.n_blocks(split)):
            found = first_array(blocks, index)
            if found is None:
                blocks.put(index, [_numpy(self._alone(split, index, dtype))])
                found = first_array(blocks, index)
            yield _there(found)

    def _alone(self, split: Split, index: int, dtype: torch.dtype) -> torch.Tensor:
        """The activations of a block, and nothing else of the model's pass."""
        self._say_prefix(split, index)
        part, where = self._part(index), joined(self._replaced)
        captured = self._model.capture(
            self._tensor(self._splits[split].tokens[part]), sorted(self._replaced)
        )
        mask = self._tensor(self._masks[split][part])
        values = _side_by_side(captured, self._replaced, mask)
        self._require_finite(values, f"activations at {where}", split, index)
        rounded = values.to(dtype)
        if not rounded.isfinite().all():
            raise SourceError(
                f"{self._model.name}: activations at {where} are too large for {dtype}; write "
                "`held: float32` into the recipe"
            )
        return rounded

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        return np.asarray(self._clean(block.index).ce.cpu())

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        """See `ActivationSource`; computed once."""
        found = self._ablated.get(block.index)
        if found is None:
            found = [self._ablated_ce(block)]
            self._ablated.put(block.index, found)
        return found[0]

    def _ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        part, zeros = self._part(block.index), torch.zeros_like(block.activations)
        found = self._splice.blank(self._kept(block), zeros, self._mask_of(part))
        return cross_entropies(self._model.head, found.hidden, self._labels(part), found.state)

    def splice(
        self, block: Block, reconstruction: Float[torch.Tensor, "token d_out"]
    ) -> SpliceLoss:
        part, head = self._part(block.index), self._model.head
        hidden = self._splice.hidden(self._kept(block), reconstruction, self._mask_of(part))
        return spliced_losses(head, hidden, self._labels(part), self._clean(block.index))

    def _kept(self, block: Block) -> Float[torch.Tensor, "document position d_model"]:
        """What splices need of the untouched model."""
        return self._tensor(self._of_prefix(self._rest, "test", block.index)[0])

    def _of_prefix(self, blocks: Blocks, split: Split, index: int) -> list[np.ndarray]:
        """What the prefix has left of a block; it runs where that is not there, or no longer."""
        found = blocks.get(index)
        if found is None:
            self._run_prefix(split, index)
            found = blocks.get(index)
        return _there(found)

    def _run_prefix(self, split: Split, index: int) -> None:
        """Capture a block's activations; for the test split also all that a splice needs."""
        self._say_prefix(split, index)
        part = self._part(index)
        mask = self._tensor(self._masks[split][part])
        needed = {*self._read, *self._replaced, *self._splice.base}
        captured = self._model.capture(
            self._tensor(self._splits[split].tokens[part]), sorted(needed)
        )
        taken = {
            hooks: _side_by_side(captured, hooks, mask) for hooks in (self._read, self._replaced)
        }
        for hooks, values in taken.items():
            self._require_finite(values, f"activations at {joined(hooks)}", split, index)
        if split == "test":
            without, clean = self._untouched(captured, mask, part)
            self._require_finite(clean.ce, "next-token losses", split, index)
            self._rest.put(index, [_numpy(without), *map(_numpy, clean)])
        document = np.arange(*part.indices(self.n_documents[split]))
        arrays = [np.repeat(document, mask.sum(dim=1).cpu()), _numpy(taken[self._replaced])]
        if self._read != self._replaced:
            arrays.append(_numpy(taken[self._read]))
        self._activations[split].put(index, arrays)

    def _say_prefix(self, split: Split, index: int) -> None:
        n_blocks = self.n_blocks(split)
        self._on_stage(f"{split} activations at {self.hook}: block {index + 1} of {n_blocks}")

    def _untouched(
        self,
        captured: dict[Hook, Activation],
        mask: Bool[torch.Tensor, "document position"],
        part: slice,
    ) -> tuple[Float[torch.Tensor, "document position d_model"], Clean]:
        """What splices need of the untouched model, and its predictions."""
        kept, hidden = self._splice.parts(captured, mask)
        return kept, clean_predictions(self._model.head, hidden, self._labels(part))

    def _clean(self, index: int) -> Clean:
        return Clean(*map(self._tensor, self._of_prefix(self._rest, "test", index)[1:]))

    def _mask_of(self, part: slice) -> Bool[torch.Tensor, "document position"]:
        """Where the test tokens of a block are."""
        return self._tensor(self._masks["test"][part])

    def _labels(self, part: slice) -> Int64[torch.Tensor, " token"]:
        """The next token of each test token of a block."""
        mask = self._masks["test"][part]
        return self._tensor(self._splits["test"].labels[part][mask])

    def _mask(self, contexts: Contexts) -> Bool[np.ndarray, "document position"]:
        """Where a token is measured."""
        return measured(contexts, self._model.tokenizer, self.site.first_position or 1)

    def _refuse_empty(self) -> None:
        for split, n_tokens in self.n_tokens.items():
            if not n_tokens:
                raise UsageError(
                    f"no token of the {split} split is left to measure: every one is special, or "
                    f"before position {self.site.first_position} of its context"
                )

    def _digest(self) -> str:
        """SHA-256 of the model's weights, the site, and every token."""
        site = json.dumps(self.site.model_dump(mode="json"), sort_keys=True)
        digest = hashlib.sha256(f"{self._model.sha256}{site}".encode())
        for split in SPLITS:
            for array in self._splits[split]:
                digest.update(f"{split}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()

    @property
    def _block_documents(self) -> int:
        context: int = self._splits["test"].tokens.shape[1]
        return max(1, BLOCK_TOKENS // context)

    def _part(self, index: int) -> slice:
        """The documents of a block."""
        return slice(index * self._block_documents, (index + 1) * self._block_documents)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _require_finite(self, values: torch.Tensor, what: str, split: Split, index: int) -> None:
        if not values.isfinite().all():
            raise SourceError(
                f"{self._model.name}: {what} are NaN or infinite in block {index} of the {split} "
                "split, before any SAE; try another --dtype"
            )


def _side_by_side(
    captured: Mapping[Hook, Activation],
    hooks: tuple[Hook, ...],
    mask: Bool[torch.Tensor, "document position"],
) -> Float[torch.Tensor, "token d"]:
    """The activations under a mask at some hook points, one after the other."""
    return torch.cat([captured[hook][mask] for hook in hooks], dim=1)


def _there(found: Found | None) -> Found:
    """What was put into the cache a moment ago; raises `SpoolError` where it is gone already."""
    if found is None:
        raise SpoolError("activations were removed from the cache in use; run it again")
    return found


def _refuse_missing_layer(model: LanguageModel, *hooks: Hook) -> None:
    for hook in hooks:
        if hook.layer >= model.n_layers:
            raise UsageError(
                f"{model.name} has no hook {hook.name!r}: its layers are 0 to {model.n_layers - 1}"
            )


def _refuse_foreign_tokens(model: LanguageModel, splits: dict[Split, Contexts]) -> None:
    vocabulary = model.head.weight.shape[1]
    highest = max(int(array.max()) for split in SPLITS for array in splits[split])
    if highest >= vocabulary:
        raise UsageError(
            f"{model.name}: the tokenizer does not match: token {highest} of a vocabulary of "
            f"{vocabulary}"
        )


def computed_by(device: torch.device) -> dict[str, str]:
    """The libraries and the kind of device that decide how results are rounded."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type} {torch.backends.cpu.get_cpu_capability()}"
    threads = str(torch.get_num_threads())
    versions = {library: metadata.version(library) for library in LIBRARIES}
    precision = torch.get_float32_matmul_precision()
    return versions | {"device": name, "threads": threads, "precision": precision}


def _arrays_digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy())
