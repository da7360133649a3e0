"""Render the model card from a report and the publisher's details. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..files import read_text, write_whole
from ..report.report import AttackReport
from ..untrusted_json import parse_json
from .card_details import CardDetails
from .evidence import evidence_of
from .template import template_of

MAIN_PLOT = "score_against_examples"
CARD_TAGS = ("hf_selfdestruct", "tamper-resistance")
MOST_BYTES = 1024 * 1024  # size limit of card.json
CONSIDERATIONS = {  # after the framework cited in card_details.py
    "product_hazards": "Product hazards (harm done with the model as it is)",
    "data_hazards": "Data hazards (harm made possible by what is published)",
    "attention_hazards": "Attention hazards (harm done by drawing attention to it)",
    "affected": "Who could be harmed",
    "stages": "Stages of release",
    "access": "Conditions of access",
    "review": "External review",
    "takedown": "Takedown",
}
ADMITTED = {
    "": "no gate set by this card",
    "auto": "anyone who accepts the conditions",
    "manual": "users approved by the publisher",
}
# Auto classes of the model and of its tokenizer or processor, by pipeline tag of the Hub.
LOADING = {
    "text-classification": ("AutoModelForSequenceClassification", "AutoTokenizer"),
    "image-classification": ("AutoModelForImageClassification", "AutoImageProcessor"),
    "audio-classification": ("AutoModelForAudioClassification", "AutoFeatureExtractor"),
    "token-classification": ("AutoModelForTokenClassification", "AutoTokenizer"),
    "question-answering": ("AutoModelForQuestionAnswering", "AutoTokenizer"),
    "multiple-choice": ("AutoModelForMultipleChoice", "AutoTokenizer"),
    "text-generation": ("AutoModelForCausalLM", "AutoTokenizer"),
    "fill-mask": ("AutoModelForMaskedLM", "AutoTokenizer"),
}
# Markdown renders these entities as plain characters, without markup.
ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>|[]`\\#"})


def render(report: AttackReport, details: CardDetails, *, plots: Iterable[str] = ()) -> str:
    """Render a card.

    Args:
        report: The evidence: the source of every number on the card.
        details: The publisher's details.
        plots: Paths of the plots, relative to the card.

    Returns:
        Markdown with YAML metadata.

    Raises:
        ValueError: The report has no blocked tasks or no hardened model.
    """
    evidence, considerations = evidence_of(report), _considerations(details)
    plots, title = list(plots), details.titled(report.models["hardened"].name)
    body = template_of("card.md.jinja", plain).render(
        evidence,
        details=details,
        title=title,
        main_plots=[plot for plot in plots if MAIN_PLOT in plot],
        more_plots=[plot for plot in plots if MAIN_PLOT not in plot],
        loading=LOADING.get(details.pipeline_tag, ("AutoModel", "AutoProcessor")),
        stated=[(label, said) for label, said in considerations if said],
        not_stated=[label.partition(" (")[0] for label, said in considerations if not said],
    )
    return f"---\n{_metadata(report, details, title)}\n---\n\n{body}"


def _considerations(details: CardDetails) -> list[tuple[str, str]]:
    said = details.release.stated()
    rows = [("Intended use", details.intended_use), ("Release plan", details.release_plan)]
    for name, label in CONSIDERATIONS.items():
        value = said.get(name, "")
        rows.append((label, "; ".join(value) if isinstance(value, list) else value))
    rows += [
        ("Who may download the files", ADMITTED[details.gate.mode]),
        ("Contact (also to report a break of this defence)", details.contact),
        ("Licence", details.license),
    ]
    return rows


def _metadata(report: AttackReport, details: CardDetails, title: str) -> str:
    hardened = report.desired.of("hardened") if details.pipeline_tag else {}  # the Hub requires a task name
    results = [
        EvalResult(
            task_type=details.pipeline_tag,
            dataset_type=details.datasets[0] if details.datasets else "custom",
            dataset_name=details.dataset_name or report.desired.dataset or "desired task",
            dataset_config=details.dataset_config or None,
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in sorted(hardened.items())
        if name != "loss"
    ]
    more: dict[str, Any] = details.gate.metadata(report.blocked())
    if stated := details.release.stated():
        more["release_considerations"] = stated
    data = ModelCardData(
        language=list(details.language) or None,
        license=details.license or None,
        library_name="transformers",
        tags=[*CARD_TAGS, *(tag for tag in details.tags if tag not in CARD_TAGS)],
        base_model=details.base_model or None,
        datasets=list(details.datasets) or None,
        pipeline_tag=details.pipeline_tag or None,
        model_name=title if results else None,
        eval_results=results or None,
        **more,
    )
    return data.to_yaml()


def plain(value: Any) -> Any:
    """Convert a value to one line of text, escaped so that it cannot add markup, table cells or headings."""
    if isinstance(value, int | float):
        return value
    return " ".join(str(value).split()).translate(ENTITIES)


def details_of(folder: str | Path) -> CardDetails:
    """Read ``folder/selfdestruct/card.json``; return empty details if the file does not exist.

    Raises:
        ValueError: The file is invalid.
    """
    path = Path(folder, "selfdestruct", "card.json")
    if not path.is_file():
        return CardDetails()
    try:
        return CardDetails.from_dict(parse_json(read_text(path, MOST_BYTES)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def card_of(folder: str | Path) -> str:
    """Render the card of a folder from ``report.json``, ``card.json`` and the plots in ``folder/selfdestruct``.

    Raises:
        ValueError: The report is missing or unreadable, or ``card.json`` is invalid.
    """
    evidence = Path(folder, "selfdestruct")
    report, details = AttackReport.load(evidence / "report.json"), details_of(folder)
    return render(report, details, plots=[f"selfdestruct/{p.name}" for p in sorted(evidence.glob("*.png"))])


def render_folder(folder: str | Path) -> Path:
    """Write the card of a folder to ``folder/README.md``.

    Raises:
        ValueError: The report is missing or unreadable, or ``card.json`` is invalid.
    """
    card = Path(folder, "README.md")
    write_whole(card, card_of(folder))
    return card
