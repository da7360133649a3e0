"""The settings of hardening: plain values, checked when made."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..adversaries.adversary import Adversary
from ..losses.blocking import BLOCKING_LOSSES
from ..losses.keeping import KEEPING_LOSSES
from ..meta_gradient.methods import META_GRADIENTS
from .adversary_settings import AdversarySettings, described, overridden
from .fields import check_choice, check_count, mapping_of, option
from .method_options import NOTHING, MethodOptions
from .presets import PRESETS
from .renamed import refuses_old_names, renamed

NESTED = ("adversary", "method_options")  # what a preset sets behind these is read, not written, when it fills


@refuses_old_names
@dataclass
class HardeningConfig:
    """What hardening needs to know, beside the model and the data: plain values only.

    What is left at ``None`` is filled by ``method``, see :meth:`filled` (and ``presets.py``, where every value has its
    source). ``adversary`` and ``method_options`` are mappings (or their JSON) that override the method's own key by
    key; ``adversary`` may also be the name of a preset, for that preset's adversary, or an :class:`Adversary`. Their
    keys are the fields of :class:`AdversarySettings`, which also says how ranges are written, and of
    :class:`MethodOptions`.

    Raises:
        TypeError: A setting is unknown, or has another name today.
        ValueError: A value is out of range or misspelt.

    Example:
        ```python
        config = HardeningConfig(
            method="mlac", inner_steps=4, adversary={"learning_rate": {"low": 1e-4, "high": 1e-3}, "head": "random"}
        )
        ```
    """

    method: str | None = option(
        None,
        "Preset that fills what is not given; by default by the kind of model.",
        PRESETS,
    )
    adversary: dict[str, Any] | str | Adversary | None = option(
        None, "Changes the method's adversary by key (mapping or JSON), or a preset."
    )
    method_options: dict[str, Any] | str | None = option(
        None, "Changes the method's other settings by key (a mapping, or JSON)."
    )
    meta_gradient: str | None = option(None, "How to differentiate through the adversary.", META_GRADIENTS)
    inner_steps: int | None = option(None, "K, the optimizer steps of the adversary in each outer step.")
    blocking_loss: str | None = option(
        None, "What hardening minimises at the fast weights; several with +.", BLOCKING_LOSSES
    )
    blocking_weight: float | None = option(None, "Weight of the blocking loss after unlearn_steps; 0: no adversary.")
    blocking_batch_size: int | None = option(None, "Held-out blocked examples on which the blocking loss is measured.")
    keeping_loss: str | None = option(
        None,
        "Distillation, or language modelling; '' for none; several with +.",
        KEEPING_LOSSES,
    )
    keeping_weight: float | None = option(None, "Weight of the keeping losses.")
    max_desired_drop: float | None = option(
        None,
        "Guard: drop of metric_for_best_model beyond which blocking weakens.",
    )
    seed: int = option(42, "Seed of every draw, and of new heads.")

    @property
    def adversary_settings(self) -> AdversarySettings:
        """The adversary, complete: the method's, with what was given instead."""
        given = _adversary_of(self.adversary)
        if self.inner_steps is not None:
            given = {**given, "steps": self.inner_steps}
        return AdversarySettings(**overridden(self._of_method("adversary"), given))

    @property
    def options(self) -> MethodOptions:
        """The method's further settings, complete, with what was given instead."""
        given = mapping_of(self.method_options, MethodOptions, "method_options") or {}
        return MethodOptions(**{**self._of_method("method_options"), **given})

    @property
    def hardens(self) -> bool:
        """Whether anything but ordinary training is asked for; by a method, once it has filled the arguments."""
        options = self.options
        return bool(self.blocking_weight) or any(getattr(options, name) != value for name, value in NOTHING.items())

    @property
    def blocks(self) -> bool:
        """Whether any step adds a blocking loss, be it one that unlearns."""
        return bool(self.blocking_weight) or bool(self.options.unlearn_steps and self.options.unlearn_weight)

    def weight_at(self, step: int) -> float:
        """Weight of the blocking loss in an outer step, counted from 0."""
        options = self.options
        return options.unlearn_weight if step < options.unlearn_steps else self.blocking_weight or 0.0

    @property
    def blocking_losses(self) -> list[str]:
        """The names in ``blocking_loss``; none before a method has filled it."""
        return [] if self.blocking_loss is None else self.blocking_loss.split("+")

    @property
    def keeping_losses(self) -> list[str]:
        """The names in ``keeping_loss``; may be none, as before a method has filled it."""
        return self.keeping_loss.split("+") if self.keeping_loss else []

    def filled(self, method: str | None = None) -> Self:
        """A copy in which every setting left at ``None`` has its method's value; itself where nothing is left to fill.

        Args:
            method: The preset where the configuration names none.
        """
        preset = PRESETS.get(self.method or method or "", {})
        values: dict[str, Any] = {"method": method, **{n: v for n, v in preset.items() if n not in NESTED}}
        values = {name: value for name, value in values.items() if value is not None and getattr(self, name) is None}
        found = copy.copy(self) if values else self
        for name, value in values.items():
            setattr(found, name, value)
        return found

    def undefended(self) -> Self:
        """A copy by which nothing is blocked, erased, merged, unlearned or mixed: that of the undefended sibling."""
        found = copy.copy(self)
        found.blocking_weight = 0.0
        found.method_options = {**dataclasses.asdict(self.options), **NOTHING}
        return found

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        others = getattr(super(), "__post_init__", None)  # of the training arguments, in a class that is both
        if others is not None:
            others()
        for name, allowed in (("method", PRESETS), ("meta_gradient", META_GRADIENTS)):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), allowed)
        joined: dict[str, tuple[list[str], Iterable[str]]] = {
            "blocking_loss": (self.blocking_losses, BLOCKING_LOSSES),
            "keeping_loss": (self.keeping_losses, KEEPING_LOSSES),
        }
        for name, (values, known) in joined.items():
            for value in values:
                if value not in known:
                    raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}. Join several by +.")
        for name, least in (("inner_steps", 0), ("blocking_batch_size", 2)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        for name in ("keeping_weight", "max_desired_drop"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number; got {value!r}.")
        if self.blocking_weight is not None and not (self.blocking_weight >= 0 and math.isfinite(self.blocking_weight)):
            raise ValueError(f"blocking_weight must be zero or more; got {self.blocking_weight!r}.")
        self._read_nested()

    def _read_nested(self) -> None:
        """Hold plain mappings of known keys, whatever was given, and check their values."""
        if self.adversary is not None and self.adversary not in [*PRESETS]:
            self.adversary = _adversary_of(self.adversary)
        self.method_options = mapping_of(self.method_options, MethodOptions, "method_options")
        if self.inner_steps is not None and isinstance(self.adversary, dict) and "steps" in self.adversary:
            raise ValueError(
                f"inner_steps={self.inner_steps} and adversary={{'steps': {self.adversary['steps']!r}}} are the same "
                "setting: give one of them."
            )
        _ = self.adversary_settings, self.options

    def _of_method(self, part: str) -> dict[str, Any]:
        return PRESETS.get(self.method or "", {}).get(part, {})


def _adversary_of(given: dict[str, Any] | str | Adversary | None) -> dict[str, Any]:
    """The keys that are given of an adversary, in whichever way."""
    if isinstance(given, Adversary):
        return described(given)
    if isinstance(given, str) and not given.lstrip().startswith("{"):
        check_choice("adversary, unless it is a mapping,", given, PRESETS)
        return dict(PRESETS[given]["adversary"])
    if isinstance(given, Mapping) and (told := renamed({f"adversary.{name}": value for name, value in given.items()})):
        raise ValueError(told)
    return mapping_of(given, AdversarySettings, "adversary") or {}
