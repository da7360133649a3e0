"""Small networks: three layers and a head, alone as a model of transformers, or many side by side."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from setting import Setting
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

WIDTH = 128


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


def side_by_side(
    setting: Setting,
    models: Sequence[Network],
    heads: Sequence[Sequence[nn.Linear]],
    rates: Sequence[float],
    decays: Sequence[float] = (),
) -> "Stack":
    """Copies of networks, each with heads of its own, a rate and a weight decay."""
    return Stack(
        setting, [[*linear_layers(one.trunk), *own] for one, own in zip(models, heads, strict=True)], rates, decays
    )


class Stack:
    """Networks side by side, each with an Adam and a rate of its own.

    Args:
        setting: Of the networks.
        layers: Of each network, its layers and heads.
        rates: Of each network.
        decays: Of each network, the weight decay, apart from the gradient (AdamW); by default none.
    """

    def __init__(
        self,
        setting: Setting,
        layers: Sequence[Sequence[nn.Linear]],
        rates: Sequence[float],
        decays: Sequence[float] = (),
    ) -> None:
        self._setting = setting
        stacked = [
            (torch.stack([one.weight.T for one in level]), torch.stack([one.bias[None] for one in level]))
            for level in zip(*layers, strict=True)
        ]
        self.values = [value.detach().clone().requires_grad_() for pair in stacked for value in pair]
        self._moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in self.values]
        self._rates, self._step = torch.tensor(rates)[:, None, None], 0
        self._shrinks = 1 - self._rates * torch.tensor(decays)[:, None, None] if any(decays) else None

    def features(self, inputs: Tensor) -> Tensor:
        """Of inputs ``(1, rows, inputs)``, the last hidden layer ``(networks, rows, width)``."""
        pairs = list(zip(self.values[::2], self.values[1::2], strict=True))
        for weight, bias in pairs[:3]:
            inputs = (inputs @ weight + bias).relu()
        return inputs

    def logits(self, inputs: Tensor, *, head: int = 0) -> Tensor:
        """Of inputs ``(rows, inputs)``, logits ``(networks, rows, classes)`` by a head."""
        at = 6 + 2 * head
        return self.features(inputs[None]) @ self.values[at] + self.values[at + 1]

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

    def models(self) -> list[Network]:
        """Each as a model, under its first head."""
        found = []
        for i in range(len(self._rates)):
            model = fresh(self._setting, 0)
            with torch.no_grad():
                for k, layer in enumerate(linear_layers(model)):
                    layer.weight.copy_(self.values[2 * k][i].T)
                    layer.bias.copy_(self.values[2 * k + 1][i, 0])
            found.append(model)
        return found


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers of a network, without what is between them."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
