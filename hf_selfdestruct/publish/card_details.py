"""Details of a card that only the publisher can state."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ..untrusted_json import checked

PIPELINES = {  # by the suffix of an architecture's name, or by PEFT's task type
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
    """Release considerations, after Ovadya and Whittlestone (2019, arXiv:1907.11274).

    Args:
        product_hazards: Harms from using the model as published.
        data_hazards: Harms that the published weights, data or details of the method enable.
        attention_hazards: Harms from drawing attention to what is possible.
        affected: People who could be harmed.
        stages: Stages of release, in order: to whom, when, and what allows the next.
        access: Conditions of access.
        review: External reviewers before the release.
        takedown: How the model is withdrawn, and what happens to copies.
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
        """Return the fields that are not empty, as plain values."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}
        return {name: value for name, value in plain.items() if value}


@dataclass(frozen=True)
class Gate:
    """Gated access on the Hub.

    Args:
        mode: ``auto`` (anyone who accepts), ``manual`` (the publisher approves), or empty.
        prompt: Text of the access request form.
        fields: Question to its kind: ``text``, ``checkbox``, ``date_picker`` or ``country``.

    Raises:
        ValueError: The mode or a kind of answer is unknown.
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
        """Return the ``extra_gated_*`` keys of a card; by default the form asks for name, purpose and a promise.

        Args:
            blocked: Names of the blocked tasks.
        """
        if not self.mode:
            return {}
        tasks = ", ".join(blocked)
        promise = f"I will not fine-tune this model, or help others to, to: {tasks}"
        asked = {"Name": "text", "Affiliation": "text", "Intended use": "text", promise: "checkbox"}
        prompt = (
            f"This model was hardened against fine-tuning to: {tasks}. State who you are and why you need the model."
        )
        return {"extra_gated_prompt": self.prompt or prompt, "extra_gated_fields": self.fields or asked}


@dataclass(frozen=True)
class CardDetails:
    """The publisher's details; the card prints "not stated" for an empty one.

    Args:
        title: Heading of the card.
        license: Hub licence identifier, such as ``apache-2.0``.
        base_model: Hub id of the base model.
        datasets: Hub ids of the data sets.
        dataset_name: Display name of the desired task's data set, such as ``GLUE SST2``.
        dataset_config: Configuration of that data set on the Hub, such as ``sst2``.
        language: Language codes.
        tags: Tags on the Hub, in addition to those of every card.
        pipeline_tag: Pipeline tag of the desired task on the Hub; by default the model's.
        intended_use: Intended use of the model.
        contact: Contact to report a break or a harm.
        release_plan: How and to whom the model is released, in one sentence.
        release: Release considerations.
        gate: Gated access on the Hub.
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

    def titled(self, name: str) -> str:
        """Return the title of a card: the publisher's, else the name of the model's folder.

        Args:
            name: Name of the model's folder; may be empty.
        """
        return self.title or name or "Hardened model"

    def of_model(self, config: dict[str, Any]) -> CardDetails:
        """Infer an empty ``pipeline_tag`` from the configuration of a model or an adapter.

        Args:
            config: Content of ``config.json`` or ``adapter_config.json``.
        """
        kind = str(config.get("task_type") or next(iter(config.get("architectures") or []), ""))
        known = next((pipeline for ending, pipeline in PIPELINES.items() if kind.endswith(ending)), "")
        return dataclasses.replace(self, pipeline_tag=self.pipeline_tag or known)

    def to_json(self) -> str:
        """Return the details as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, raw: Any, where: str = "card") -> CardDetails:
        """Build details from plain values.

        Raises:
            ValueError: A field is unknown or has the wrong type; the message names it.
        """
        details: CardDetails = checked(cls, _with_lists(raw), where)
        return details


def _with_lists(raw: Any) -> Any:
    """Wrap single strings in lists where lists are expected."""
    if not isinstance(raw, dict):
        return raw
    for part, names in LISTS.items():
        held = raw.get(part) if part else raw
        if isinstance(held, dict):
            held = {k: [v] if k in names and isinstance(v, str) else v for k, v in held.items()}
            raw = {**raw, part: held} if part else held
    return raw
