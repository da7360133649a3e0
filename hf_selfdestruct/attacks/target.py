"""The models that attacks start from.

Nothing of the defence is imported here: models are loaded from disk as anybody would load them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file

from ..files import reason, weights_hash
from ..report.facts import ModelFacts
from ..tasks.classification import CLASSIFICATION

# What a configuration says beside the architecture.
NO_SHAPE = {
    *("_name_or_path", "architectures", "dtype", "finetuning_task", "hf_selfdestruct", "id2label", "label2id"),
    *("problem_type", "torch_dtype", "transformers_version"),
}
# What a configuration says of training alone. A publisher's could weaken every fine-tuning (a dropout of 0.9), so that
# an attacker drops and masks no more than is usual for the architecture, and draws new weights as is usual.
DROPS = re.compile(r"drop|spec_augment|mask_(time|feature)_")
DRAWS = re.compile(r"initializer|init_std")
# A publisher's half precision would weaken every fine-tuning: an attacker trains in float32.
PLAIN: dict[str, Any] = {
    "dtype": torch.float32,
    "use_safetensors": True,
    "trust_remote_code": False,
    "output_loading_info": True,
}
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
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
        role: ``hardened``, ``undefended``, ``base``, ``filtered`` or ``scratch``.
        folder: A folder or Hub id that ``transformers`` can load.
        random: Keep only the architecture, with random weights (scratch).
        sibling: The undefended model's folder, for attacks that hold it.
        padding: The token that pads the attacker's rows, where the configuration names none: classifiers such as
            GPT-2's find by it where a text ends.
    """

    role: str
    folder: str
    random: bool = False
    sibling: str = ""
    padding: int | None = None

    def load(
        self, num_labels: int, seed: int, problem_type: str = CLASSIFICATION.problem_type, *, auto: Any = None
    ) -> PreTrainedModel:
        """The model with a new head of ``num_labels`` outputs; head (and scratch) weights depend on ``seed`` alone.

        Args:
            num_labels: Outputs of the head; of a classification its classes.
            seed: Of the head.
            problem_type: By which ``transformers`` chooses the head's loss.
            auto: The ``AutoModelFor...`` class whose published head is kept instead.

        Raises:
            ValueError: The folder's trunk does not fit its own architecture, or it lacks the head to keep.
        """
        with quiet():
            return self._loaded(num_labels, seed, problem_type) if auto is None else self._whole(auto, seed)

    def _loaded(self, num_labels: int, seed: int, problem_type: str) -> PreTrainedModel:
        config = self.config()
        config.update({"num_labels": num_labels, "problem_type": problem_type})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = auto_class(config).from_config(config, dtype=torch.float32)
            if self.random:
                return model
            trunk, info = self._read(AutoModel)
        # What the folder lacks, from_pretrained fills with random weights: that is not the published model.
        found = {name: value for name, value in trunk.state_dict().items() if name not in info["missing_keys"]}
        random = {*model.base_model.load_state_dict(found, strict=False).missing_keys}
        if lost := sorted(random - unpublished(config, trunk) if random else ()):
            raise ValueError(f"{self.folder}: weights missing from the trunk: {', '.join(lost[:3])}.")
        return model

    def _whole(self, auto: Any, seed: int) -> PreTrainedModel:
        config = self.config()
        if type(config) not in auto._model_mapping:
            raise ValueError(f"{config.model_type!r} has no {auto.__name__} in transformers; it cannot be attacked.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.random:
                return auto.from_config(config, dtype=torch.float32)
            model, info = self._read(auto, config=config)
        if lost := sorted(info["missing_keys"]):
            raise ValueError(f"{self.folder}: weights missing from the model: {', '.join(lost[:3])}.")
        return model

    def published(self) -> PreTrainedModel | None:
        """The classifier with the head it was published with; ``None`` where it has none, or one for another kind."""
        if self.random:
            return None
        config = self.config()
        known, kind = _published_class(config), auto_class(config)._model_mapping[type(config)]
        if known is not None and known not in (kind if isinstance(kind, tuple) else (kind,)):
            return None  # a head of its shape may be for something else, such as choices
        with quiet():
            model, info = self._read(auto_class(config), config=config)
        return None if info["missing_keys"] else model

    def _read(self, auto: Any, **named: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        try:
            return auto.from_pretrained(self.folder, **PLAIN, **named)
        except RuntimeError as error:  # of other shapes
            raise ValueError(f"{self.folder}: its weights do not fit its configuration ({reason(error)}).") from None

    def config(self) -> PretrainedConfig:
        """The configuration, with the architecture's own settings of training.

        Raises:
            ValueError: The folder holds an adapter.
        """
        with quiet():
            refuse_adapter(self.folder)
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        parts = (getattr(config, name) for name in config.sub_configs)
        for part in (config, *(part for part in parts if part is not None)):
            with quiet():
                usual = type(part)().to_dict()
            said = {name: own for name, own in part.to_dict().items() if own is not None and name in usual}
            for name, own in said.items():
                drops_more = DROPS.search(name) and (usual[name] is None or own > usual[name])
                if drops_more or DRAWS.search(name):
                    setattr(part, name, usual[name])
        if self.padding is not None and getattr(text := config.get_text_config(), "pad_token_id", None) is None:
            text.pad_token_id = self.padding
        return config

    def architecture(self) -> str:
        """SHA-256 of what the configuration says of the architecture: equal weights may stand in different ones."""
        shape = {k: v for k, v in self.config().to_dict().items() if k not in NO_SHAPE}
        return hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode()).hexdigest()

    def identity(self) -> ModelFacts:
        """Name and SHA-256 of the weights (of the configuration, for random ones), for the report."""
        if self.random:
            return ModelFacts("random weights of the same architecture", self.architecture())
        return ModelFacts(Path(self.folder).name, weights_hash(self.folder))


def check_shape(target: Target, hardened: PretrainedConfig) -> None:
    """Refuse a reference of another architecture: its numbers would not be comparable.

    Raises:
        ValueError: The message names the first difference, or why there is no configuration.
    """
    try:
        own = target.config()
    except OSError as error:
        raise ValueError(f"{target.role} model {target.folder}: cannot load it ({reason(error)}).") from None
    for name in SHAPE:
        theirs, ours = getattr(own, name, None), getattr(hardened, name, None)
        if theirs != ours:
            raise ValueError(
                f"{target.role} model {target.folder}: {name} is {theirs!r}, but the hardened model's is {ours!r}; "
                "pass a reference of the same architecture."
            )


def refuse_adapter(folder: str) -> None:
    """Refuse an adapter: its base may lie elsewhere and change, and its weights have other names than the model's.

    Raises:
        ValueError: The folder or Hub id holds one.
    """
    if find_adapter_config_file(folder):
        raise ValueError(
            f"{folder}: it contains an adapter (adapter_config.json), which changes the weights or refers to another "
            "base: merge the adapter into the weights (merge_and_unload), save these, and remove its files."
        )


def distance(one: Target, other: Target, *, auto: Any = None) -> float:
    """Norm of the difference of two trunks' weights, relative to the norm of the other's; ``auto`` as in ``load``."""
    own, others = (target.load(2, 0, auto=auto).base_model.state_dict() for target in (one, other))
    shared = [name for name in own if name in others and own[name].shape == others[name].shape]
    apart, norm = (
        sum(float(part.double().square().sum()) for part in parts) ** 0.5
        for parts in ((own[name] - others[name] for name in shared), (others[name] for name in shared))
    )
    return float(f"{apart / norm:.6g}") if norm else 0.0  # the same whatever the number of threads


def unpublished(config: Any, trunk: PreTrainedModel) -> set[str]:
    """Weights of the trunk that the published architecture does not have, such as a masked language model's pooler.

    Of a class that is none of transformers, these are the weights that some of its classes of this kind do without.
    """
    published = _published_class(config)
    autos: Any = (*AUTO_CLASSES.values(), AutoModelForMaskedLM, AutoModelForTokenClassification)
    usual = (auto._model_mapping.get(type(config), None) for auto in (autos if published is None else ()))
    known = [published, *(kind[0] if isinstance(kind, tuple) else kind for kind in usual)]
    lacking: set[str] = set()
    for kind in known:
        if kind is not None and not isinstance(trunk, kind):
            with torch.device("meta"):
                lacking |= {*trunk.state_dict()} - {*kind(config).base_model.state_dict()}
    return lacking


def _published_class(config: Any) -> Any:
    """The class that the configuration names, where it is one of transformers."""
    found = getattr(transformers, str(next(iter(config.architectures or []), "")), None)
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


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
