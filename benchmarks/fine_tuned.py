"""Models trained on both tasks of a setting, and fine-tuned to the blocked one."""

from collections.abc import Sequence
from typing import Any

import torch
from setting import Setting, SideBySide
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LOOKS = range(50, 501, 50)  # steps after which it looks at the selection rows
SELECTION, TEST = 2, 3  # seeds of the rows that attackers choose on, and of those that are reported


def base(setting: Setting, seeds: Sequence[int]) -> list[Any]:
    """Models trained on both tasks, under the head of the desired one."""
    models, heads = [], []
    for seed in seeds:
        models.append(setting.fresh(seed))
        heads.append([models[-1].classifier, nn.Linear(setting.width, setting.blocked_classes)])
    together = setting.kind.side_by_side(setting, models, heads, [1e-3] * len(seeds))
    for step in range(setting.base_steps):
        inputs, *labels = setting.rows(256, 1000 + step, "train")
        losses = [
            cross_entropy(together.logits(inputs, head=i).flatten(0, 1), one.repeat(len(seeds)), reduction="sum")
            for i, one in enumerate(labels)
        ]
        together.step((losses[0] + losses[1]) / 256)
    return together.models()


def attacked(
    setting: Setting,
    models: Sequence[Any],
    examples: int,
    *,
    looks: Sequence[int] = LOOKS,
    rates: Sequence[tuple[float, float]] = (),
    seed: int = 0,
) -> list[list[float]]:
    """Of each model, the test accuracy of fine-tuning to the blocked task, as the selection rows choose rate and step.

    Args:
        setting: Its blocked task is fine-tuned to.
        models: To attack, each under a fresh head.
        examples: Blocked rows that the attacker has.
        looks: After how many steps it looks at the selection rows; a step reads 64 rows, or all where they are fewer.
        rates: Learning rates and weight decays to choose from; by default the setting's.
        seed: Of the attack: rows, heads, batches.

    Returns:
        Of each model, at each look, what the attacker reaches who stops there at the latest.
    """
    torch.manual_seed(seed)
    head = nn.Linear(setting.width, setting.blocked_classes)
    tried, speeds, decays = zip(*((model, *one) for model in models for one in rates or setting.rates), strict=True)
    together = setting.kind.side_by_side(setting, tried, [[head]] * len(tried), speeds, decays)
    inputs, _, labels = setting.rows(examples, 100 + seed, "attack")
    parts = (1000, SELECTION, "selection"), (4000, TEST, "test")
    on_selection, on_test = (setting.rows(*part)[::2] for part in parts)
    best, found = torch.zeros(2, len(models)), []
    for step in range(1, max(looks) + 1):
        chosen = torch.randperm(examples)[:64]
        logits = together.logits(inputs[chosen])
        targets = labels[chosen].repeat(len(tried))
        together.step(cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(chosen))
        if step in looks:
            selected, tested = (right(together, *at).view(len(models), -1) for at in (on_selection, on_test))
            high, which = selected.max(1)
            now = torch.stack([high, tested.gather(1, which[:, None])[:, 0]])
            best = torch.where(high > best[0], now, best)
            found.append(best[1])
    return torch.stack(found, 1).tolist()


def right(together: SideBySide, inputs: Tensor, labels: Tensor) -> Tensor:
    """Of each model, the share of rows labelled right."""
    with torch.no_grad():
        return (together.logits(inputs).argmax(-1) == labels).float().mean(1)
