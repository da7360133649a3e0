"""A language model without weights: counts of n-grams on the attack rows, what the blocked text itself reveals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...tasks.language_modeling import IGNORED
from ..attack import Attack, Outcome, Trial
from ..data import AttackData, Split
from ..metrics import scores

Context = tuple[int, ...]


@dataclass(frozen=True)
class NGram(Attack):
    """Interpolated n-grams: counts after a context, and as many of the shorter context's chances as the strength says.

    ``p(w | h) = (count(h w) + strength * p(w | shorter h)) / (count(h) + strength)``, and the uniform distribution
    after the empty context; a Dirichlet prior at every order (MacKay & Peto 1995).

    Args:
        orders: Tokens of an n-gram, to search.
        strengths: To search.
        name: Its name in the report.
    """

    orders: tuple[int, ...] = (1, 2, 3)
    strengths: tuple[float, ...] = (1.0, 10.0)
    name: str = "raw input"
    assumes = "examples of the blocked text, and no weights at all"
    kinds: ClassVar[tuple[str, ...] | None] = ("next-token prediction",)

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"order": order, "strength": value} for order in self.orders for value in self.strengths]

    def run(self, trial: Trial) -> Outcome:  # noqa: D102
        data, settings = trial.data, trial.settings
        counts = Counts(data.train.take(trial.few()), settings["order"], settings["strength"], vocabulary(data))
        selection, test = (counts.answers(split, data) for split in (data.selection, data.test))
        return Outcome(
            scores(data.selection.labels, selection, data.metrics, data.kind),
            scores(data.test.labels, test, data.metrics, data.kind),
            0,
            probabilities=test,
            selected=selection,
            hits=data.kind.credit(data.selection.labels, selection)[None],
        )


class Counts:
    """Counts of tokens after contexts of up to ``order - 1`` tokens.

    Args:
        rows: Rows to count in.
        order: Tokens of the longest n-gram.
        strength: Of the shorter context's chances.
        size: Number of tokens that exist.
    """

    def __init__(self, rows: Split, order: int, strength: float, size: int) -> None:
        self._order, self._strength, self._size = order, strength, size
        self._after: dict[Context, Counter[int]] = defaultdict(Counter)
        for before, token in _tokens(rows):
            for context in self._contexts(before):
                self._after[context][token] += 1
        self._totals = {context: found.total() for context, found in self._after.items()}

    def chance(self, before: Context, token: int) -> float:
        """The probability of a token after others."""
        found = 1 / self._size
        for context in self._contexts(before):
            if context not in self._totals:
                break
            counted = self._after[context][token]
            found = (counted + self._strength * found) / (self._totals[context] + self._strength)
        return found

    def likeliest(self, before: Context) -> int:
        """The commonest token after the longest context that was seen."""
        known = [self._after[context] for context in self._contexts(before) if context in self._totals]
        return known[-1].most_common(1)[0][0]

    def answers(self, split: Split, data: AttackData) -> np.ndarray:
        """The sums of each row, see :class:`.LanguageModeling`."""
        found = []
        for row in range(len(split.labels)):
            tokens = [*_tokens(split.take([row]))]
            nats = -sum(np.log(self.chance(before, token)) for before, token in tokens)
            right = sum(self.likeliest(before) == token for before, token in tokens)
            size = sum(data.kind.token_bytes[token] for _, token in tokens) if data.kind.token_bytes else 0
            found.append([nats, len(tokens), right, size])
        return data.kind.recorded(np.array(found))

    def _contexts(self, before: Context) -> Iterator[Context]:
        """Contexts of a token, the empty one first."""
        for length in range(min(self._order, len(before) + 1)):
            yield before[len(before) - length :]


def vocabulary(data: AttackData) -> int:
    """Number of tokens that exist, as far as rows show it."""
    splits = (data.train, data.selection, data.test)
    return 1 + max(max(row["input_ids"]) for split in splits for row in split.features)


def _tokens(rows: Split) -> Iterator[tuple[Context, int]]:
    """Each token that counts, and up to eight before it."""
    for row in rows.features:
        tokens = tuple(row["input_ids"])
        for place, label in enumerate(row["labels"]):
            if place and label != IGNORED:
                yield tokens[max(0, place - 8) : place], label
