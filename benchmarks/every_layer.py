"""An attacker of the study who reads every layer of a small network: a probe, then fine-tuning with it as the head."""

from __future__ import annotations

import copy
from typing import Any

import torch
from fine_tuned import LOOKS, SELECTION, TEST
from setting import Setting
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the logistic regression
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
FIRST = (10, 20)  # looks before the usual ones: it starts from what the probe knows


class Reader(nn.Module):
    """A copy of a network's trunk under a linear head on all of its layers.

    Args:
        model: The network.
        examples: Inputs ``(rows, inputs)`` that say how features are scaled.
        classes: Of the head.
    """

    def __init__(self, model: Any, examples: Tensor, classes: int) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(model.trunk)
        with torch.no_grad():
            found = self._joined(examples)
        self._mean, self._deviation = found.mean(0), found.std(0) + 1e-3
        self.head = nn.Linear(found.shape[1], classes)

    def features(self, inputs: Tensor) -> Tensor:
        """What the head reads, ``(rows, widths)``."""
        return (self._joined(inputs) - self._mean) / self._deviation

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(rows, classes)``."""
        return self.head(self.features(inputs))

    def accuracy(self, inputs: Tensor, labels: Tensor) -> float:
        """The share of rows labelled right."""
        with torch.no_grad():
            return (self(inputs).argmax(1) == labels).float().mean().item()

    def _joined(self, inputs: Tensor) -> Tensor:
        found = []
        for layer in self.trunk:
            inputs = layer(inputs)
            if isinstance(layer, nn.ReLU):
                found.append(inputs)
        return torch.cat(found, 1)


def read(setting: Setting, model: Any, examples: int, *, seed: int = 0) -> tuple[float, float]:
    """Test accuracy of a probe of all layers, and of fine-tuning all weights with it as the head.

    Args:
        setting: Its blocked task, of two classes, is learned.
        model: To attack.
        examples: Blocked rows that the attacker has.
        seed: Of the attack: rows and batches.

    Returns:
        Both, each as 1,000 selection rows choose: the probe's strength; rate and step, or no step at all.
    """
    inputs, _, labels = setting.rows(examples, 100 + seed, "attack")
    parts = (1000, SELECTION, "selection"), (4000, TEST, "test")
    selection, test = (setting.rows(*part)[::2] for part in parts)
    probe = max(_probes(model, inputs, labels), key=lambda one: one.accuracy(*selection))
    best, probed = probe.accuracy(*selection), probe.accuracy(*test)
    reached = probed
    for rate in RATES:
        torch.manual_seed(seed)
        tried = copy.deepcopy(probe)
        optimizer = torch.optim.AdamW(tried.parameters(), lr=rate, weight_decay=0.0)
        for step in range(1, max(LOOKS) + 1):
            chosen = torch.randperm(examples)[:64]
            optimizer.zero_grad()
            cross_entropy(tried(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            if (step in LOOKS or step in FIRST) and (found := tried.accuracy(*selection)) > best:
                best, reached = found, tried.accuracy(*test)
    return probed, reached


def _probes(model: Any, inputs: Tensor, labels: Tensor) -> list[Reader]:
    found = []
    for strength in STRENGTHS:
        reader = Reader(model, inputs, 2)
        with torch.no_grad():
            fitted = LogisticRegression(C=strength, max_iter=300).fit(reader.features(inputs), labels)
            weight, bias = (torch.tensor(one, dtype=torch.float32) for one in (fitted.coef_[0], fitted.intercept_[0]))
            for value, one in ((reader.head.weight, weight), (reader.head.bias, bias)):
                value.copy_(torch.stack([-one / 2, one / 2]))
        found.append(reader)
    return found
