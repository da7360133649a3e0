"""Whether plain ``transformers`` reads from a folder the model that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..attacks.target import auto_class, quiet
from ..files import reason

if TYPE_CHECKING:
    from .base import HardeningTrainer

ROWS = 4
SAME, SAME_ROUNDED = 1e-3, 5e-2  # of the norm: with equal weights, and with weights saved in another type


@torch.no_grad()
def unlike_plain(trainer: HardeningTrainer) -> str:
    """Load a trainer's saved folder as any user would, and compare what both models say of a few rows.

    Args:
        trainer: A trainer whose model lies in its folder; every process must ask.

    Returns:
        How the model in plain ``transformers`` differs from the trained one; empty where it does not.
    """
    model = trainer.plain_model()
    if model.config.model_type not in CONFIG_MAPPING_NAMES:
        return f"its model_type, {model.config.model_type!r}, is none of transformers"
    with torch.random.fork_rng(devices=[]):
        try:
            with quiet():
                stock: Any = plain_class(model)
                plain: Any = stock.from_pretrained(trainer.folder, use_safetensors=True, trust_remote_code=False)
        except (RuntimeError, ValueError) as error:
            return reason(error)
        name = type(plain).__name__
        data: Any = trainer.train_dataset
        rows = trainer._get_collator_with_removed_columns(trainer.data_collator)([*islice(iter(data), ROWS)])
        batch = trainer._prepare_inputs({name: rows[name] for name in rows if name in trainer.input_columns})
        training, problem = model.training, model.config.problem_type  # a model that sees labels names its problem
        ours = _answers(model.eval(), batch)
        model.train(training).config.problem_type = problem
        shared = batch if isinstance(model, stock) else {n: batch[n] for n in batch if n not in trainer.label_names}
        try:
            theirs = _answers(plain.to(model.device).eval(), shared)
        except (RuntimeError, TypeError, ValueError) as error:
            return f"a {name} does not take the rows of the trained model ({reason(error)})"
    most = SAME if plain.dtype == model.dtype else SAME_ROUNDED
    if not ours.keys() & theirs.keys():
        return f"a {name} returns {', '.join(theirs)} where the trained model returns {', '.join(ours)}"
    for answer in sorted(ours.keys() & theirs.keys()):
        one, other = ours[answer], theirs[answer]
        if one.shape != other.shape:
            return f"the {answer} of a {name} have the shape {tuple(other.shape)}, and {tuple(one.shape)} when trained"
        if (apart := float((one - other).norm() / one.norm().clamp(min=1e-9))) > most:
            return f"the {answer} of a {name} differ from those of the trained model by {apart:.0%} of their norm"
    return ""


def plain_class(model: PreTrainedModel) -> Any:
    """What loads the model where the user's own classes are not: its first class that is one of ``transformers``.

    Raises:
        ValueError: ``transformers`` has no classification model of this kind either.
    """
    for kind in type(model).__mro__:
        own = not kind.__module__.startswith("transformers.")
        if not own and issubclass(kind, PreTrainedModel) and not kind.__name__.endswith("PreTrainedModel"):
            return kind
    return auto_class(model.config)


def _answers(model: PreTrainedModel, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a model says of each row, by name; its class is asked, without what a launcher put around it."""
    outputs: Any = type(model).forward(model, **batch)
    named = outputs if isinstance(outputs, Mapping) else {f"output {i}": value for i, value in enumerate(outputs)}
    return {
        name: torch.nan_to_num(value.float())
        for name, value in named.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0
    }
