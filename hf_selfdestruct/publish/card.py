"""Render the model card from a report and the publisher's details. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ..files import read_text, write_whole
from ..report.attack_run import NOT_MEASURED
from ..report.readings import reading_lines
from ..report.recovery import reference
from ..report.report import AttackReport
from ..report.tables import (
    BESIDE,
    DIFFERENCES,
    WITHOUT_PREDICTIONS,
    control_rows,
    cost_rows,
    desired_kept,
    difference_rows,
    reference_lines,
    scored,
    seeds,
)
from ..report.weights_add import ADDED_COLUMNS, BLOCKED_IF, added_rows
from ..untrusted_json import parse_json
from .card_details import CardDetails
from .card_tables import attack_rows, desired_lines, flat, results

NOT_STATED = "not stated"
MAIN_PLOT = "score_against_examples"
CARD_TAGS = ("hf_selfdestruct", "tamper-resistance")
MOST_BYTES = 1024 * 1024  # size limit of card.json
CLOSED_FORMS = {  # edits of the model before training, and what they cost its users
    "merge_words": "Words that reveal a blocked label share one embedding with others, merged until no group is "
    "predictive beyond {} standard errors: the model cannot distinguish these words.",
    "merge_groups": "Merged words form at most {} groups.",
    "erase_directions": "At most {} directions of each blocked task were erased from the input embeddings.",
    "keep_directions": "The input embeddings were reduced to at most {} directions that predict the desired task; "
    "information that other tasks need was removed too.",
    "noise": "Weights were mixed with random ones, of a share of {}, and the desired task was relearned from there; "
    "information that other tasks need was removed too.",
    "keeping_erases": "The model was distilled from a copy of the original with the blocked tasks erased from its "
    "hidden states (LEACE).",
}
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
# The known limits of attack suites, one of which every card prints; the second for suites with what beat the others.
BEATEN = (
    "No evidence of blocking: an external attacker beat the attack suite behind this card. On the suite's "
    "own biographies, that attacker matched or beat the strongest attack at most budgets: with words alone (a "
    "bag-of-words classifier, no weights), or with the groups of words that have equal embeddings in the published "
    "weights. Fine-tuning in this suite is under-tuned; later versions are stronger."
)
BEATEN_BEFORE = (
    "An external attacker beat earlier versions of the attack suites: with words alone, with the groups of words that "
    "have equal embeddings in published weights, and with fine-tuning that was tuned better. This suite contains such "
    "attacks; whether an external attacker beats it, too, is not known."
)
STRONGER = {"quick": 4, "default": 6, "adaptive": 7, "full": 5}  # suites, by the first version with such attacks
# Markdown renders these entities as plain characters, without markup.
ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>|[]`\\#"})


def judge_limits(report: AttackReport) -> str:
    """What is known of attackers who were stronger than the suite of a report."""
    suite = report.suite
    return BEATEN_BEFORE if suite.name in STRONGER and suite.version >= STRONGER[suite.name] else BEATEN


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
    if not report.tasks:
        raise ValueError("the report has no blocked tasks, which a card needs; attack a model to write a new report.")
    if "hardened" not in report.models:
        raise ValueError("the report has no hardened model, which a card needs; attack one to write a new report.")
    considerations = _considerations(details)
    plots, title = list(plots), details.title or report.models["hardened"].name or "Hardened model"
    body = _template().render(
        report=report,
        details=details,
        title=title,
        roles=report.roles(),
        unlike_plain=report.models["hardened"].unlike_plain,
        results=results(report),
        differences={task: difference_rows(report, task) for task in report.blocked()},
        added={task: table for task in report.blocked() if (table := added_rows(report, task))},
        costs={task: cost_rows(report, task) for task in report.blocked()},
        references={task: reference_lines(report, task) for task in report.blocked()},
        given=reference(report),
        controls={task: table for task in report.controls() if (table := control_rows(report, task))},
        outside=sorted(name for name, facts in report.attacks.items() if facts.outside),
        assumptions=sorted({facts.assumes for facts in report.attacks.values() if facts.assumes}),
        scored=scored(report),
        readings=reading_lines(report),
        desired_kept=desired_kept(report),
        rows={task: attack_rows(report, task) for task in report.tasks},
        desired=desired_lines(report),
        main_plots=[plot for plot in plots if MAIN_PLOT in plot],
        more_plots=[plot for plot in plots if MAIN_PLOT not in plot],
        loading=LOADING.get(details.pipeline_tag, ("AutoModel", "AutoProcessor")),
        selected_on=_selected_on(report),
        most_examples=max((n for task in report.blocked() for n in report.budgets(task)), default=NOT_STATED),
        before_training=[
            text.format(report.recipe[name]) for name, text in CLOSED_FORMS.items() if name in report.recipe
        ],
        recipe=flat(report.recipe),
        stated=[(label, said) for label, said in considerations if said],
        not_stated=[label.partition(" (")[0] for label, said in considerations if not said],
        seconds=sum(run.seconds for run in report.runs),
        seeds=_seeds(report),
        JUDGE_LIMITS=judge_limits(report),
        BESIDE=BESIDE,
        DIFFERENCES=DIFFERENCES,
        WITHOUT_PREDICTIONS=WITHOUT_PREDICTIONS,
        ADDED_COLUMNS=ADDED_COLUMNS,
        BLOCKED_IF=BLOCKED_IF,
        NOT_STATED=NOT_STATED,
        NOT_MEASURED=NOT_MEASURED,
    )
    return f"---\n{_metadata(report, details, title)}\n---\n\n{body}"


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("hf_selfdestruct.publish"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=plain,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja")


def _selected_on(report: AttackReport) -> str:
    """Number of rows of the selection split; several numbers if blocked tasks differ."""
    counts = {report.tasks[task].rows.selection for task in report.blocked()} - {0}
    return " or ".join(map(str, sorted(counts))) or NOT_STATED


def _seeds(report: AttackReport) -> str:
    """Smallest and largest number of attack seeds of the means."""
    counts = [count for task in report.tasks for count in seeds(report, task)]
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else NOT_STATED


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
