"""The adversary's model: a skeleton that separates published weights from the adversary's own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import heads, in_place
from .functional import Weights, batch_norms, call
from .row_embedding import RowEmbedding, can_compact

OWN = "own."  # prefix of the adversary's own names, to distinguish its head from the published one
INDEX = "rows.index"
ADAPTER = "lora_"
WRAPPED = ".base_layer."


class StatelessModel:
    """A model without weights for one kind of adversary, called with weights by the live model's names.

    Args:
        module: Module of :func:`heads.skeleton`; changed in place.
        model: The live model.
        keep_head: Whether to use the published head.
        lora: Adapters to add.
        rows: Whether to allocate only the used rows of the word embeddings.
        twice: Whether the model must be twice differentiable.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        model: PreTrainedModel,
        *,
        keep_head: bool = False,
        lora: LoraConfig | None = None,
        rows: bool = False,
        twice: bool = False,
    ) -> None:
        if lora is not None:
            inject_adapter_in_model(copy.deepcopy(lora), module, low_cpu_mem_usage=True)
        self.module, self._twice = module.eval(), twice
        self._held: nn.Module | None = None  # what to call, while live modules hold the weights
        self._kind = torch.promote_types(model.dtype, torch.float32)
        self.names = heads.names_between(module, model, keep_head=keep_head)
        self.own = [n for n, _ in module.named_parameters() if n not in self.names]
        if homeless := [n for n, _ in module.named_buffers() if n not in self.names]:
            raise ValueError(
                f"{type(module).__name__} has buffers that the live model does not have ({', '.join(homeless)}); such "
                "a head cannot be simulated, so use another model_class."
            )
        self.padding: int | None = None
        self.embedding: str | None = None
        self._index: str | None = None
        if rows and can_compact(module):
            whole = cast(nn.Embedding, module.get_input_embeddings())
            inner = next(n for n, m in module.named_modules() if m is whole)
            module.set_input_embeddings(RowEmbedding(whole))
            self.padding, self._index = whole.padding_idx, f"{inner}.index"
            self.embedding = self.names[f"{inner}.weight"]
        every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self._tied = len({id(value) for _, value in every}) < len(every)
        self.normalises_batches = bool(batch_norms(module))

    def run(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Any:
        """Run the model.

        Args:
            weights: Published weights and buffers by live names, own weights by name with prefix ``OWN``, and ``INDEX``
                if only some rows of the embeddings are allocated.
            inputs: Keyword arguments of the forward pass.
        """
        if self._held is not None:
            return self._held(**inputs)
        return call(self.module, self._inner(weights), inputs, twice=self._twice, tied=self._tied)

    @contextmanager
    def held(
        self, model: PreTrainedModel, weights: Mapping[str, Tensor], *, training: bool, by_batch: bool = False
    ) -> Iterator[None]:
        """Let live modules hold the weights inside the context, and :meth:`run` run them (see :func:`in_place.held`).

        Args:
            model: The live model.
            weights: As in :meth:`run`, whose own are not used inside the context. Sharded ones are left out.
            training: Whether dropout is on.
            by_batch: Whether batch normalisation uses the statistics of its batch.
        """
        inner, published = self._inner(weights), self.names
        with in_place.held(
            self.module, model, inner, published=published, training=training, by_batch=by_batch
        ) as self._held:
            try:
                yield
            finally:
                self._held = None

    def _inner(self, weights: Mapping[str, Tensor]) -> Weights:
        inner = {name: weights[outer] for name, outer in self.names.items() if outer in weights}
        inner.update({name: weights[OWN + name] for name in self.own})
        if self._index is not None and INDEX in weights:
            inner[self._index] = weights[INDEX]
        return inner

    def draw(self, seed: int, *, device: torch.device) -> Weights:
        """Initialise the own weights (head and adapters) from ``seed`` alone, by skeleton names, at least float32."""
        return {n: w.to(self._kind) for n, w in heads.draw(self.module, self.own, seed, device=device).items()}

    def trained(self, trainable: str | LoraConfig) -> set[str]:
        """Return the names (published and own) of the weights that an adversary with this setting trains."""
        if trainable == "all":
            chosen: Iterable[str] = [n for n, _ in self.module.named_parameters()]
        elif isinstance(trainable, str) and trainable.startswith("last_"):
            chosen = heads.last_layers(self.module, int(trainable.removeprefix("last_")))
        else:  # the head alone, or the head and adapters
            chosen = heads.head_names(self.module)
        return {self.names.get(n, OWN + n) for n in chosen} | {OWN + n for n in self.own}


def plain(name: str) -> str:
    """Strip ``OWN`` and PEFT's wrapping from a weight's name: it is then the same with and without adapters."""
    return name.removeprefix(OWN).replace(WRAPPED, ".")
