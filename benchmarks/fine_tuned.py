"""Networks trained on both tasks of a setting, and fine-tuned to the blocked one."""

from collections.abc import Sequence

import torch
from networks import BLOCKED_CLASSES, WIDTH, Network, Setting, Stack, fresh, weights_of
from torch import nn
from torch.nn.functional import cross_entropy

RATES = ((3e-4, 0.0), (1e-3, 0.0), (3e-3, 0.0), (1e-2, 0.0))  # and weight decays, that the attacker searches
LOOKS = range(50, 501, 50)  # steps after which it looks at the selection rows
SELECTION, TEST = 2, 3  # seeds of the rows that attackers choose on, and of those that are reported


def base(setting: Setting, seeds: Sequence[int], *, steps: int = 4000) -> list[Network]:
    """Networks trained on both tasks, under the head of the desired one."""
    started = []
    for seed in seeds:
        model = fresh(setting, seed)
        second = nn.Linear(WIDTH, BLOCKED_CLASSES)
        started.append([*weights_of(model), (second.weight, second.bias)])
    stack = Stack(started, [1e-3] * len(seeds))
    for step in range(steps):
        inputs, *labels = setting.rows(256, 1000 + step, "train")
        losses = [
            cross_entropy(stack.logits(inputs[None], head=i).flatten(0, 1), one.repeat(len(seeds)), reduction="sum")
            for i, one in enumerate(labels)
        ]
        stack.step((losses[0] + losses[1]) / 256)
    return stack.networks(setting)


def attacked(
    setting: Setting,
    models: Sequence[Network],
    examples: int,
    *,
    looks: Sequence[int] = LOOKS,
    rates: Sequence[tuple[float, float]] = RATES,
    seed: int = 0,
) -> list[list[float]]:
    """Of each model, the test accuracy of fine-tuning to the blocked task, as the selection rows choose rate and step.

    Args:
        setting: Its blocked task is fine-tuned to.
        models: To attack, each under a fresh head.
        examples: Blocked rows that the attacker has.
        looks: After how many steps it looks at the selection rows; a step reads 64 rows, or all where they are fewer.
        rates: Learning rates and weight decays to choose from.
        seed: Of the attack: rows, heads, batches.

    Returns:
        Of each model, at each look, what the attacker reaches who stops there at the latest.
    """
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, BLOCKED_CLASSES)
    tried = [(model, *one) for model in models for one in rates]
    _, speeds, decays = zip(*tried, strict=True)
    stack = Stack([weights_of(model, head=head) for model, *_ in tried], speeds, decays)
    inputs, _, labels = setting.rows(examples, 100 + seed, "attack")
    parts = (1000, SELECTION, "selection"), (4000, TEST, "test")
    on_selection, on_test = (setting.rows(*part)[::2] for part in parts)
    best, found = torch.zeros(2, len(models)), []
    for step in range(1, max(looks) + 1):
        chosen = torch.randperm(examples)[:64]
        logits = stack.logits(inputs[chosen][None])
        targets = labels[chosen].repeat(len(tried))
        stack.step(cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / len(chosen))
        if step in looks:
            selected, tested = (stack.right(*at).view(len(models), -1) for at in (on_selection, on_test))
            high, which = selected.max(1)
            now = torch.stack([high, tested.gather(1, which[:, None])[:, 0]])
            best = torch.where(high > best[0], now, best)
            found.append(best[1])
    return torch.stack(found, 1).tolist()
