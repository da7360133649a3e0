"""The selection bias of a search: what the best of many settings owes to having been chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...tasks.blocked_task import seed_of

RESAMPLES = 200


def optimism(hits: Sequence[np.ndarray]) -> float:
    """What the best of many settings owes to having been chosen on the rows it is scored on.

    The bootstrap bias correction of Tsamardinos et al. (2018): rows are drawn with replacement, the best setting on
    them is scored on the rows left out; how far that stays behind the plain maximum is the optimism.

    Args:
        hits: Rows labelled right, or what each row adds to the score, one array ``(looks, rows)`` per setting.

    Returns:
        0 or more; of a share of rows at most 1.

    Example:
        >>> optimism([np.ones((1, 50), dtype=bool)])
        0.0
    """
    if not hits:
        return 0.0
    table = np.concatenate(hits).astype(float)
    rows = table.shape[1]
    if len(table) == 1 or rows < 2:
        return 0.0
    generator = np.random.default_rng(seed_of("optimism", table.shape))
    drawn = generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES)
    best = (table @ drawn.T).argmax(axis=0)
    left_out = drawn == 0
    estimate = (table[best] * left_out).sum() / left_out.sum()
    return float(max(0.0, table.mean(axis=1).max() - estimate))
