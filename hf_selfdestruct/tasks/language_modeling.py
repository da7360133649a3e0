"""Language modelling: each next token of a text, or of a completion after its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import AutoModelForCausalLM

from ..report.attack_run import Scores
from ..report.facts import LIKELIHOOD, TaskFacts
from ..report.token_rows import packed_tokens, token_contributions, token_scores
from .kind import LabelColumn, TaskKind

IGNORED = -100  # no token: never counted


@dataclass(frozen=True)
class LanguageModeling(TaskKind):
    """Each next token of a row: the score is the log-likelihood per token in nats, the loss its negative.

    A row's labels are a list as long as its ``input_ids``: the same numbers, or -100 where a token is not to be
    predicted (padding, a prompt). As in ``transformers``, the logits of one place answer the label of the next one.

    Of a row, the answers are four sums over the tokens that count: their loss in nats, their number, how many were the
    likeliest, and the bytes that they stand for. A score is a ratio of such sums, so that each token counts the same.

    Args:
        token_bytes: The bytes that each token stands for, see :func:`.texts.token_bytes`; without them, bits per byte
            are not measured.

    Example:
        ```python
        kind = LanguageModeling(token_bytes(tokenizer))
        novel = BlockedTask("novel", train=rows, attack=more, test=others, label_column="labels", kind=kind)
        ```
    """

    token_bytes: tuple[int, ...] = field(default=(), repr=False)

    name = "next-token prediction"
    score = LIKELIHOOD
    problem_type = ""  # the published head has its own loss
    model_class = AutoModelForCausalLM
    running_text = True

    def read(self, labels: Sequence[Any], where: str, column: str) -> np.ndarray:
        """Labels as an array of tuples, one for each row."""
        for row, label in enumerate(labels):
            whole = isinstance(label, list | tuple) and all(type(n) is int and (n >= 0 or n == IGNORED) for n in label)
            if not whole or not any(one >= 0 for one in label[1:]):
                raise ValueError(
                    f"{where}, column {column!r}, row {row}: the labels must be a list of token numbers, {IGNORED} "
                    "where none is to be predicted, with a token after the first place: make the rows by "
                    "packed_rows() or completion_rows()."
                )
        return np.fromiter((tuple(label) for label in labels), dtype=object, count=len(labels))

    def outputs(self, column: LabelColumn, given: int | None) -> int:
        """None of its own: the published head predicts tokens."""
        if given:
            raise ValueError(f"blocked task {column.task!r}: a {self.name} has no classes: leave num_labels out.")
        return 0

    def loss(self, logits: Tensor, labels: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of tokens and their :meth:`targets`; a label of -100 counts for nothing."""
        return cross_entropy(logits, labels, reduction=reduction)

    def credit(self, labels: Any, answers: Any) -> Any:
        """What each token adds to the score (of logits), or each row (of answers)."""
        if isinstance(answers, Tensor):
            return -self.loss(answers, labels, reduction="none")
        return token_contributions(answers)

    def facts(self, labels: np.ndarray, outputs: int) -> TaskFacts:
        """The best constant answer is how often each token occurs in the test rows."""
        tokens = np.concatenate([np.asarray(row[1:]) for row in labels])
        share = np.unique(tokens[tokens >= 0], return_counts=True)[1] / (tokens >= 0).sum()
        return TaskFacts(majority=float(share @ np.log(share)), score=self.score)

    def padded(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of one length, padded on the right, where no token sees it."""
        for row in rows:
            if len(row["labels"]) != len(row["input_ids"]):
                raise ValueError(
                    f"a row has {len(row['labels'])} labels for {len(row['input_ids'])} tokens: give each token its "
                    f"own number or {IGNORED}, unshifted."
                )
        longest = max((len(row["input_ids"]) for row in rows), default=0)
        return [_filled(row, longest) for row in rows]

    def targets(self, labels: Tensor) -> Tensor:
        """Labels one place to the left, over the logits that should predict them."""
        return pad(labels[:, 1:], (0, 1), value=IGNORED)

    def answers(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Of each row: nats, tokens, tokens predicted right, and bytes."""
        if labels is None:
            raise ValueError(f"a {self.name} is scored by its labels, and the batch has none.")
        targets = self.targets(labels)
        here = targets != IGNORED
        nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        sizes = torch.tensor(self.token_bytes or [0], device=labels.device)
        size = sizes[targets.clamp(0, len(sizes) - 1)] * here
        return torch.stack([nats.sum(1), here.sum(1), ((logits.argmax(-1) == targets) & here).sum(1), size.sum(1)], 1)

    def recorded(self, answers: np.ndarray) -> np.ndarray:
        """Sums in single precision."""
        return answers.astype(np.float32).astype(np.float64)

    def packed(self, answers: np.ndarray) -> str:  # noqa: D102
        return packed_tokens(answers)

    def scores(self, labels: np.ndarray, answers: np.ndarray) -> Scores:
        """Log-likelihood and loss per token; bits per byte and next-token accuracy beside them."""
        return token_scores(answers)

    def decided(self, answers: np.ndarray) -> np.ndarray:
        """The loss of each row per token."""
        return answers[:, 0] / answers[:, 1]

    def right(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        """Every token is certain."""
        tokens = np.array([sum(one >= 0 for one in row[1:]) for row in labels], dtype=float)
        return np.stack([0 * tokens, tokens, tokens, 0 * tokens], axis=1)


LANGUAGE_MODELING = LanguageModeling()


def _filled(row: dict[str, Any], length: int) -> dict[str, Any]:
    """A row with padding: labels that never count, a mask of 0, and token 0 where nothing looks."""
    given = len(row["input_ids"])
    row = {"attention_mask": [1] * given, **row}
    same = {name: [*value] for name, value in row.items() if hasattr(value, "__len__") and len(value) == given}
    fill = {"labels": IGNORED}
    return {**row, **{name: value + [fill.get(name, 0)] * (length - given) for name, value in same.items()}}
