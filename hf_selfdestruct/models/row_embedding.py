"""Word embeddings of which only the rows that an adversary reads exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel


class RowEmbedding(nn.Module):
    """An embedding with only some of its rows.

    An adversary reads and trains only the rows in its batches; the others do not change under any optimizer. Word
    embeddings are often half of an encoder. Token ids are not renumbered, because models infer padding and sequence
    ends from them; ``index`` maps a token id to its row. The padding row, which gets no gradient, is row 0.
    """

    index: Tensor

    def __init__(self, whole: nn.Embedding) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty_like(whole.weight))
        self.register_buffer("index", torch.empty(whole.num_embeddings, dtype=torch.long, device="meta"))
        self.padding_idx = whole.padding_idx

    def forward(self, tokens: Tensor) -> Tensor:
        """Return embeddings of shape ``(*tokens.shape, width)``."""
        return embedding(self.index[tokens], self.weight, None if self.padding_idx is None else 0)


def can_compact(module: PreTrainedModel) -> bool:
    """Whether the word embeddings are a plain table, used only to embed input tokens."""
    try:
        whole = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return False
    if type(whole) is not nn.Embedding or whole.max_norm is not None or whole.scale_grad_by_freq:
        return False
    uses = [n for n, p in module.named_parameters(remove_duplicate=False) if p is whole.weight]
    tied = any(n in uses[:1] or o in uses[:1] for n, o in getattr(module, "all_tied_weights_keys", {}).items())
    return len(uses) == 1 and not tied


def used_rows(batches: Iterable[Mapping[str, Tensor]], count: int, padding: int | None) -> tuple[Tensor, Tensor]:
    """Find the rows of an embedding table that batches use, and each row's position among them.

    Args:
        batches: Batches with ``input_ids``; if one has none, all rows count as used.
        count: Number of rows of the whole table.
        padding: Row of the padding token, which comes first.

    Returns:
        Row numbers, shape ``(used,)``, and positions, shape ``(count,)``; unused rows have position 0.
    """
    tokens = [batch.get("input_ids") for batch in batches]
    if not tokens or any(t is None for t in tokens):
        rows = torch.arange(count)
    else:
        rows = torch.cat([t.reshape(-1).cpu() for t in tokens if t is not None]).unique()
    if padding is not None:
        rows = torch.cat([torch.tensor([padding]), rows[rows != padding]])
    index = torch.zeros(count, dtype=torch.long)
    index[rows] = torch.arange(len(rows))
    return rows, index
