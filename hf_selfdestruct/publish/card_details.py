"""What only the publisher knows of a model, in the publisher's words."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ..untrusted_json import checked

PIPELINES = {  # last words of an architecture's name, or PEFT's task type
    "ForSequenceClassification": "text-classification",
    "SEQ_CLS": "text-classification",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForCausalLM": "text-generation",
    "ForMaskedLM": "fill-mask",
}
GATES = ("auto", "manual")
ANSWERS = ("text", "checkbox", "date_picker", "country")
LISTS = {
    "": ("datasets", "language", "tags"),
    "release": ("product_hazards", "data_hazards", "attention_hazards", "affected", "stages"),
}


@dataclass(frozen=True)
class ReleaseConsiderations:
    """What was weighed before publishing, after Ovadya and Whittlestone (2019, arXiv:1907.11274).

    Args:
        product_hazards: Harm done with the model as it is.
        data_hazards: Harm made possible by what was published: weights, data, details of the method.
        attention_hazards: Harm done by drawing attention to what can be done.
        affected: Who could be harmed.
        stages: Stages of release, in order: to whom, when, and what decides on the next.
        access: Conditions of access.
        review: Who outside looked at it before.
        takedown: How it is withdrawn, and what then happens to copies.
    """

    product_hazards: tuple[str, ...] = ()
    data_hazards: tuple[str, ...] = ()
    attention_hazards: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    access: str = ""
    review: str = ""
    takedown: str = ""

    def stated(self) -> dict[str, Any]:
        """What is not empty, as plain values."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}
        return {name: value for name, value in plain.items() if value}


@dataclass(frozen=True)
class Gate:
    """Who must ask before downloading.

    Args:
        mode: ``auto`` (whoever agrees gets it), ``manual`` (the publisher decides), or empty for no gate.
        prompt: What a visitor reads.
        fields: Question to the kind of its answer: ``text``, ``checkbox``, ``date_picker`` or ``country``.

    Raises:
        ValueError: No such mode or kind of answer.
    """

    mode: str = ""
    prompt: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value."""
        if self.mode and self.mode not in GATES:
            raise ValueError(f"gate: mode must be one of {', '.join(GATES)}; got {self.mode!r}.")
        for question, kind in self.fields.items():
            if kind not in ANSWERS:
                raise ValueError(f"gate: the answer to {question!r} must be one of {', '.join(ANSWERS)}; got {kind!r}.")

    def metadata(self, blocked: list[str]) -> dict[str, Any]:
        """The ``extra_gated_*`` keys of a card; what is not given asks who, why, and for a promise.

        Args:
            blocked: Names of the blocked tasks.
        """
        if not self.mode:
            return {}
        tasks = ", ".join(blocked)
        promise = f"I will not fine-tune this model, or help others to, to: {tasks}"
        asked = {"Name": "text", "Affiliation": "text", "Intended use": "text", promise: "checkbox"}
        prompt = (
            f"This model was hardened against being fine-tuned to: {tasks}. Say who you are and what you need it for."
        )
        return {"extra_gated_prompt": self.prompt or prompt, "extra_gated_fields": self.fields or asked}


@dataclass(frozen=True)
class CardDetails:
    """The user's own words; what is left empty is printed as "not stated".

    Args:
        title: Heading of the card.
        license: Hub licence identifier, such as ``apache-2.0``.
        base_model: Hub id of the model that was hardened.
        datasets: Hub ids of the data.
        dataset_name: Name of the desired task's data for readers, such as ``GLUE SST2``.
        dataset_config: Its configuration on the Hub, such as ``sst2``.
        language: Language codes.
        tags: The Hub's tags, beside those of every card.
        pipeline_tag: The Hub's name of the desired task; what is left empty is read off the model, where it tells.
        intended_use: What the model is for.
        contact: Whom to tell about a break or a harm.
        release_plan: How and to whom it is released, in a sentence.
        release: What was weighed before publishing.
        gate: Who must ask before downloading.
    """

    title: str = ""
    license: str = ""
    base_model: str = ""
    datasets: tuple[str, ...] = ()
    dataset_name: str = ""
    dataset_config: str = ""
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pipeline_tag: str = ""
    intended_use: str = ""
    contact: str = ""
    release_plan: str = ""
    release: ReleaseConsiderations = field(default_factory=ReleaseConsiderations)
    gate: Gate = field(default_factory=Gate)

    def of_model(self, config: dict[str, Any]) -> CardDetails:
        """The details with what a model's configuration, or an adapter's, tells.

        Args:
            config: Content of ``config.json`` or ``adapter_config.json``.
        """
        kind = str(config.get("task_type") or next(iter(config.get("architectures") or []), ""))
        known = next((pipeline for ending, pipeline in PIPELINES.items() if kind.endswith(ending)), "")
        return dataclasses.replace(self, pipeline_tag=self.pipeline_tag or known)

    def to_json(self) -> str:
        """The details as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, raw: Any, where: str = "card") -> CardDetails:
        """Details from plain values.

        Raises:
            ValueError: An unknown field or a wrong type; the message names it.
        """
        details: CardDetails = checked(cls, _with_lists(raw), where)
        return details


def _with_lists(raw: Any) -> Any:
    """Where several may stand, one may stand without a list."""
    if not isinstance(raw, dict):
        return raw
    for part, names in LISTS.items():
        held = raw.get(part) if part else raw
        if isinstance(held, dict):
            held = {k: [v] if k in names and isinstance(v, str) else v for k, v in held.items()}
            raw = {**raw, part: held} if part else held
    return raw
