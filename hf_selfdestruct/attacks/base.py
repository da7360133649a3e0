"""What an attack is, and the models it starts from.

Nothing of the defence is imported here: models are loaded from disk as anybody would load them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging

from ..files import weights_hash
from ..runs import Scores
from .data import AttackData

# What a configuration says beside the architecture.
NO_SHAPE = {
    *("_name_or_path", "architectures", "dtype", "finetuning_task", "hf_selfdestruct", "id2label", "label2id"),
    *("problem_type", "torch_dtype", "transformers_version"),
}
AUTO_CLASSES = {
    "input_ids": AutoModelForSequenceClassification,
    "pixel_values": AutoModelForImageClassification,
    "input_values": AutoModelForAudioClassification,
    "input_features": AutoModelForAudioClassification,
}


@dataclass(frozen=True)
class Target:
    """A model under attack, loaded afresh from disk for every run.

    Args:
        role: ``hardened``, ``undefended``, ``base`` or ``scratch``.
        folder: A folder or Hub id that ``transformers`` can load.
        random: Keep only the architecture, with random weights (scratch).
        sibling: The undefended model's folder, for attacks that hold it.
    """

    role: str
    folder: str
    random: bool = False
    sibling: str = ""

    def load(self, num_labels: int, seed: int) -> PreTrainedModel:
        """The model with a new head of ``num_labels`` classes; head (and scratch) weights depend on ``seed`` alone.

        Raises:
            ValueError: The folder's trunk does not fit its own architecture.
        """
        with quiet():
            return self._loaded(num_labels, seed)

    def _loaded(self, num_labels: int, seed: int) -> PreTrainedModel:
        config = AutoConfig.from_pretrained(self.folder, num_labels=num_labels, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = auto_class(config).from_config(config)
        if not self.random:
            trunk, info = AutoModel.from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            model.base_model.load_state_dict(trunk.state_dict(), strict=False)
            # What the folder lacks, from_pretrained fills with random weights: that is not the published model.
            if missing := sorted({*info["missing_keys"]} & model.base_model.state_dict().keys()):
                raise ValueError(f"{self.folder}: weights missing from the trunk: {', '.join(missing[:3])}.")
        return model

    def published(self) -> PreTrainedModel | None:
        """The model with the head it was published with; ``None`` where it has none."""
        if self.random:
            return None
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        with quiet():
            model, info = auto_class(config).from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        return None if info["missing_keys"] else model

    def identity(self) -> dict[str, Any]:
        """Name and SHA-256 of the weights (of the configuration, for random ones), for the report."""
        if self.random:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False).to_dict()
            shape = {k: v for k, v in config.items() if k not in NO_SHAPE}
            digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()
            return {"name": "random weights of the same architecture", "sha256": digest}
        return {"name": Path(self.folder).name, "sha256": weights_hash(self.folder)}


def auto_class(config: Any) -> Any:
    """The ``AutoModelFor...Classification`` that fits what a model reads.

    Raises:
        ValueError: There is none for this architecture.
    """
    trunk: Any = AutoModel._model_mapping.get(type(config), None)
    trunk = trunk[0] if isinstance(trunk, tuple) else trunk
    found: Any = AUTO_CLASSES.get(getattr(trunk, "main_input_name", "input_ids"))
    if found is None or type(config) not in found._model_mapping:
        raise ValueError(f"{config.model_type!r} has no classification model in transformers; it cannot be attacked.")
    return found


@dataclass(frozen=True)
class Outcome:
    """What one attack run reached.

    Attributes:
        selection: Scores on the selection split.
        test: Scores on the test split; ``None`` when the run was stopped at a rung.
        steps: Optimizer steps made.
        flops: Floating-point operations of training.
        curve: Pairs of step and selection accuracy, at every look.
        desired_drop: Desired-task accuracy lost; ``None`` where it was not measured.
        probabilities: Class probabilities of the test rows.
        hits: Selection rows labelled right, at every look (or by every cell that was compared), ``(looks, rows)``.
        found: What the run itself chose on the selection split, such as a layer.
    """

    selection: Scores
    test: Scores | None
    steps: int
    flops: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()
    desired_drop: float | None = None
    probabilities: np.ndarray | None = field(default=None, compare=False)
    hits: np.ndarray | None = field(default=None, compare=False)
    found: dict[str, Any] = field(default_factory=dict)


class Attack(ABC):
    """A recipe with a search space, run on a freshly loaded stock model by plain torch and scikit-learn.

    Attributes:
        name: The field's name for it.
        assumes: What the attacker needs to have, in words.
        outside: Whether it stands outside the headline, because it holds the undefended model itself.
        needs: What must be there for it to run: ``desired`` (benign rows), ``sibling`` (the undefended model).
    """

    name: str
    assumes: str = "the published weights and labelled examples of the blocked task"
    outside: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What must be there for it to run, beside weights and examples."""
        return frozenset()

    def fitting(self, available: frozenset[str]) -> Attack | None:
        """The attack as far as it can be run with what is available; ``None`` where it cannot."""
        return self if self.needs <= available else None

    @abstractmethod
    def space(self) -> list[dict[str, Any]]:
        """Settings to search, the likeliest first; all models get the same."""

    def rung(self, settings: dict[str, Any]) -> int | None:
        """Step at which settings are compared and most of them given up; ``None`` where all are run to the end."""
        return None

    def cost(self, settings: dict[str, Any]) -> int:
        """Optimizer steps of a whole run, for the ledger shown before the start."""
        return 0

    @abstractmethod
    def run(
        self,
        target: Target,
        data: AttackData,
        *,
        examples: int,
        seed: int,
        settings: dict[str, Any],
        until: int | None = None,
    ) -> Outcome:
        """Attack once.

        Args:
            target: The model.
            data: What the attacker has.
            examples: Training rows it may use.
            seed: Of subset, head and data order.
            settings: One point of :meth:`space`.
            until: Stop at this step, a rung, without a look at the test split.

        Returns:
            Scores on the selection and the test split.

        Raises:
            FloatingPointError: The run diverged; the suite records it as failed.
        """


@dataclass(frozen=True)
class AnyOf(Attack):
    """The best of several attacks, searched as one: their settings compete on the selection split.

    Args:
        name: Its name in the report.
        of: Attacks with different names.

    Example:
        ```python
        AnyOf("tampered fine-tuning", (Tuning("pruned", tamper=Prune()), Tuning("rescaled", tamper=Rescale())))
        ```
    """

    name: str
    of: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if len({attack.name for attack in self.of}) < len(self.of):
            raise ValueError(f"{self.name}: the attacks must have different names.")

    @property
    def assumes(self) -> str:  # type: ignore[override]
        """What the most demanding of them assumes, each thing once."""
        return "; ".join(dict.fromkeys(attack.assumes for attack in self.of))

    @property
    def outside(self) -> bool:  # type: ignore[override]
        """Whether one of them stands outside."""
        return any(attack.outside for attack in self.of)

    def fitting(self, available: frozenset[str]) -> Attack | None:  # noqa: D102
        left = tuple(attack for attack in self.of if attack.needs <= available)
        return AnyOf(self.name, left) if left else None

    def space(self) -> list[dict[str, Any]]:  # noqa: D102
        return [{"variant": attack.name, **settings} for attack in self.of for settings in attack.space()]

    def rung(self, settings: dict[str, Any]) -> int | None:  # noqa: D102
        attack, inner = self._variant(settings)
        return attack.rung(inner)

    def cost(self, settings: dict[str, Any]) -> int:  # noqa: D102
        attack, inner = self._variant(settings)
        return attack.cost(inner)

    def run(  # noqa: D102
        self,
        target: Target,
        data: AttackData,
        *,
        examples: int,
        seed: int,
        settings: dict[str, Any],
        until: int | None = None,
    ) -> Outcome:
        attack, inner = self._variant(settings)
        return attack.run(target, data, examples=examples, seed=seed, settings=inner, until=until)

    def _variant(self, settings: dict[str, Any]) -> tuple[Attack, dict[str, Any]]:
        attack = next(a for a in self.of if a.name == settings["variant"])
        return attack, {k: v for k, v in settings.items() if k != "variant"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' word on every load that a new head is new: an attack loads hundreds of times."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def device() -> torch.device:
    """Where attacks run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def placed(model: PreTrainedModel) -> PreTrainedModel:
    """The model, on the device."""
    nn.Module.to(model, device())
    return model
