"""Small networks: three layers and a head, alone as a model of transformers, or many side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

WIDTH, BLOCKED_CLASSES = 128, 2


@dataclass(frozen=True)
class Setting:
    """A desired and a blocked task about the same inputs.

    Attributes:
        name: Of the setting.
        inputs: Numbers of an input.
        classes: Of the desired task; the blocked one has two.
        rows: From a count, a seed and a part (``train``, ``attack``, ``selection``, ``test``), that many inputs
            ``(count, inputs)``, desired labels and blocked labels.
    """

    name: str
    inputs: int
    classes: int
    rows: Callable[[int, int, str], tuple[Tensor, Tensor, Tensor]]


class NetworkConfig(PretrainedConfig):
    """Its number of inputs, beside what every configuration has."""

    model_type = "small_network"

    def __init__(self, inputs: int = 1, **more: Any) -> None:
        self.inputs = inputs
        super().__init__(**more)


class Network(PreTrainedModel):
    """Three layers and a head."""

    config_class = NetworkConfig
    base_model_prefix = "trunk"
    main_input_name = "inputs"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        sizes = (config.inputs, WIDTH, WIDTH, WIDTH)
        layers = [part for one in pairwise(sizes) for part in (nn.Linear(*one), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTH, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **_: Any) -> SequenceClassifierOutput:
        """Logits and, where there are labels, their cross-entropy."""
        logits = self.classifier(self.trunk(inputs))
        return SequenceClassifierOutput(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


def fresh(setting: Setting, seed: int) -> Network:
    """A network with random weights."""
    torch.manual_seed(seed)
    return Network(NetworkConfig(setting.inputs, num_labels=setting.classes))


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
        """Of inputs ``(networks or 1, rows, inputs)``, the last hidden layer ``(networks, rows, width)``."""
        pairs = list(zip(self.values[::2], self.values[1::2], strict=True))
        for weight, bias in pairs[:3]:
            inputs = (inputs @ weight + bias).relu()
        return inputs

    def logits(self, inputs: Tensor, *, head: int = 0) -> Tensor:
        """Of inputs ``(networks or 1, rows, inputs)``, logits ``(networks, rows, classes)`` by a head."""
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

    def networks(self, setting: Setting) -> list[Network]:
        """Each as a model, under its first head."""
        found = []
        for i in range(len(self._rates)):
            model = fresh(setting, 0)
            with torch.no_grad():
                for k, layer in enumerate(linear_layers(model)):
                    layer.weight.copy_(self.values[2 * k][i].T)
                    layer.bias.copy_(self.values[2 * k + 1][i, 0])
            found.append(model)
        return found


def linear_layers(model: Network) -> list[nn.Linear]:
    """The three layers and the head."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def weights_of(model: Network, *, head: nn.Linear | None = None) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of the layers, under another head where one is given."""
    layers = linear_layers(model)
    return [(one.weight, one.bias) for one in ([*layers[:3], head] if head is not None else layers)]
