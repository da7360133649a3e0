"""Parities of hidden signs: tasks about which no linear probe says anything, so that only fine-tuning recovers them.

20 hidden signs are mixed linearly into 32 numbers with a little noise. The desired task is the product of two of the
signs, the blocked task the product of three others. A base of three layers knows both; its several seeds are trained
and attacked side by side, as one stack of networks.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

SIGNS, INPUTS, WIDTH, NOISE = 20, 32, 128, 0.1
DESIRED, BLOCKED = (0, 1), (2, 3, 4)
RATES = ((3e-4, 0.0), (1e-3, 0.0), (3e-3, 0.0), (1e-2, 0.0))  # and weight decays, that the attacker searches
LOOKS = range(50, 501, 50)  # steps after which it looks at the selection rows
SELECTION, TEST = 2, 3  # seeds of the rows that attackers choose on, and of those that are reported


class SignsConfig(PretrainedConfig):
    """Nothing to set."""

    model_type = "signs"


class Signs(PreTrainedModel):
    """Three layers and a head."""

    config_class = SignsConfig
    base_model_prefix = "trunk"
    main_input_name = "signs"

    def __init__(self, config: SignsConfig) -> None:
        super().__init__(config)
        sizes = (INPUTS, WIDTH, WIDTH, WIDTH)
        layers = [part for one in pairwise(sizes) for part in (nn.Linear(*one), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTH, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, signs: Tensor, labels: Tensor | None = None, **_: Any) -> SequenceClassifierOutput:
        """Logits and, where there are labels, their cross-entropy."""
        logits = self.classifier(self.trunk(signs))
        return SequenceClassifierOutput(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


def fresh(seed: int) -> Signs:
    """A network with random weights."""
    torch.manual_seed(seed)
    return Signs(SignsConfig())


def rows(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``(count, 32)``, desired labels and blocked labels."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randint(0, 2, (count, SIGNS), generator=generator) * 2.0 - 1
    mixing = torch.randn(SIGNS, INPUTS, generator=torch.Generator().manual_seed(7)) / math.sqrt(SIGNS)
    inputs = hidden @ mixing + NOISE * torch.randn(count, INPUTS, generator=generator)
    desired, blocked = ((hidden[:, list(signs)].prod(1) > 0).long() for signs in (DESIRED, BLOCKED))
    return inputs, desired, blocked


class Stack:
    """Networks side by side, each with an Adam and a rate of its own.

    Args:
        layers: Of each network, the weights and biases of its layers.
        rates: Of each network.
        decays: Of each network, the weight decay, apart from the gradient (AdamW); by default none.
    """

    def __init__(
        self, layers: Sequence[Sequence[tuple[Tensor, Tensor]]], rates: Sequence[float], decays: Sequence[float] = ()
    ) -> None:
        stacked = [
            (torch.stack([w.T for w, _ in level]), torch.stack([b[None] for _, b in level]))
            for level in zip(*layers, strict=True)
        ]
        self.values = [value.detach().clone().requires_grad_() for pair in stacked for value in pair]
        self._moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in self.values]
        self._rates, self._step = torch.tensor(rates)[:, None, None], 0
        self._shrinks = 1 - self._rates * torch.tensor(decays)[:, None, None] if any(decays) else None

    def features(self, inputs: Tensor) -> Tensor:
        """Of inputs ``(networks or 1, rows, 32)``, the last hidden layer ``(networks, rows, width)``."""
        pairs = list(zip(self.values[::2], self.values[1::2], strict=True))
        for weight, bias in pairs[:3]:
            inputs = (inputs @ weight + bias).relu()
        return inputs

    def logits(self, inputs: Tensor, *, head: int = 0) -> Tensor:
        """Of inputs ``(networks or 1, rows, 32)``, logits ``(networks, rows, 2)`` by the first or another head."""
        at = 6 + 2 * head
        return self.features(inputs) @ self.values[at] + self.values[at + 1]

    def right(self, inputs: Tensor, labels: Tensor, *, head: int = 0) -> Tensor:
        """Of each network, the share of rows labelled right."""
        with torch.no_grad():
            return (self.logits(inputs[None], head=head).argmax(-1) == labels).float().mean(1)

    def step(self, loss: Tensor) -> None:
        """One Adam step of every network."""
        gradients = torch.autograd.grad(loss, self.values)
        self._step += 1
        with torch.no_grad():
            for value, gradient, (first, second) in zip(self.values, gradients, self._moments, strict=True):
                if self._shrinks is not None:
                    value.mul_(self._shrinks)
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.001)
                unbiased = second.div(1 - 0.999**self._step).sqrt_().add_(1e-8)
                value.sub_(self._rates * first / (1 - 0.9**self._step) / unbiased)

    def networks(self) -> list[Signs]:
        """Each as a model, under its first head."""
        found = []
        for i in range(len(self._rates)):
            model = fresh(0)
            with torch.no_grad():
                for k, layer in enumerate(linear_layers(model)):
                    layer.weight.copy_(self.values[2 * k][i].T)
                    layer.bias.copy_(self.values[2 * k + 1][i, 0])
            found.append(model)
        return found


def linear_layers(model: Signs) -> list[nn.Linear]:
    """The three layers and the head."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def weights_of(model: Signs, *, head: nn.Linear | None = None) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of the layers, under another head where one is given."""
    layers = linear_layers(model)
    return [(one.weight, one.bias) for one in ([*layers[:3], head] if head is not None else layers)]


def base(seeds: Sequence[int], *, steps: int = 4000) -> list[Signs]:
    """Networks trained on both tasks, under the head of the desired one."""
    started = []
    for seed in seeds:
        model = fresh(seed)
        second = nn.Linear(WIDTH, 2)
        started.append([*weights_of(model), (second.weight, second.bias)])
    stack = Stack(started, [1e-3] * len(seeds))
    for step in range(steps):
        inputs, *labels = rows(256, 1000 + step)
        losses = [
            cross_entropy(stack.logits(inputs[None], head=i).flatten(0, 1), one.repeat(len(seeds)), reduction="sum")
            for i, one in enumerate(labels)
        ]
        stack.step((losses[0] + losses[1]) / 256)
    return stack.networks()


def attacked(
    models: Sequence[Signs],
    examples: int,
    *,
    looks: Sequence[int] = LOOKS,
    rates: Sequence[tuple[float, float]] = RATES,
    seed: int = 0,
) -> list[list[float]]:
    """Of each model, the test accuracy of fine-tuning to the blocked task, as the selection rows choose rate and step.

    Args:
        models: To attack, each under a fresh head.
        examples: Blocked rows that the attacker has.
        looks: After how many steps it looks at the selection rows; a step reads 64 rows, or all where they are fewer.
        rates: Learning rates and weight decays to choose from.
        seed: Of the attack: rows, heads, batches.

    Returns:
        Of each model, at each look, what the attacker reaches who stops there at the latest.
    """
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, 2)
    tried = [(model, *one) for model in models for one in rates]
    _, speeds, decays = zip(*tried, strict=True)
    stack = Stack([weights_of(model, head=head) for model, *_ in tried], speeds, decays)
    inputs, _, labels = rows(examples, 100 + seed)
    on_selection, on_test = (rows(count, of)[::2] for count, of in ((1000, SELECTION), (4000, TEST)))
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
