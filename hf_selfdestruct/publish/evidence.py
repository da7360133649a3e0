"""What a card and a page of a report show: the numbers and sentences that follow from the report alone."""

from __future__ import annotations

from typing import Any

from ..report.attack_run import NOT_MEASURED
from ..report.readings import reading_lines
from ..report.recovery import reference
from ..report.references import reference_lines
from ..report.report import AttackReport
from ..report.tables import (
    BESIDE,
    DIFFERENCES,
    WITHOUT_PREDICTIONS,
    control_rows,
    cost_rows,
    desired_kept,
    difference_rows,
    scored,
    seeds,
)
from ..report.weights_add import ADDED_COLUMNS, BLOCKED_IF, added_rows
from .card_tables import attack_rows, desired_lines, flat, results

NOT_STATED = "not stated"
CLOSED_FORMS = {  # edits of the model before training, and what they cost its users
    "merge_words": "Words that reveal a blocked label share one embedding with others, merged until no group is "
    "predictive beyond {} standard errors: the model cannot distinguish these words.",
    "merge_groups": "Merged words form at most {} groups.",
    "erase_directions": "At most {} directions of each blocked task were erased from the input embeddings.",
    "keep_directions": "The input embeddings were reduced to at most {} directions that predict the desired task; "
    "information that other tasks need was removed too.",
    "selective_steps": "The MLPs were edited in at most {} steps that raise the loss of the blocked texts, along what "
    "general texts do not use.",
    "noise": "Weights were mixed with random ones, of a share of {}, and the desired task was relearned from there; "
    "information that other tasks need was removed too.",
    "unlearn_steps": "In its first {} steps the model unlearned the blocked tasks; it was kept close to what it was "
    "then.",
    "keeping_erases": "The model was distilled from a copy of the original with the blocked tasks erased from its "
    "hidden states (LEACE).",
}
# The known limits of attack suites, one of which every card prints, by what the suite's version contains.
BEATEN = (
    "No evidence of blocking: an external attacker beat the attack suite behind this card. On the suite's "
    "own biographies, that attacker matched or beat the strongest attack at most budgets: with words alone (a "
    "bag-of-words classifier, no weights), or with the groups of words that have equal embeddings in the published "
    "weights. Fine-tuning in this suite is under-tuned; later versions are stronger."
)
UNTRIED = (
    "No evidence of blocking: no external attacker is known to have tried this attack suite, and one beat earlier "
    "versions of larger ones: with words alone, with the groups of words that have equal embeddings in published "
    "weights, and with fine-tuning that was tuned better."
)
BEATEN_BEFORE = (
    "An external attacker beat earlier versions of the attack suites: with words alone, with the groups of words that "
    "have equal embeddings in published weights, and with fine-tuning that was tuned better. This suite contains such "
    "attacks; whether an external attacker beats it, too, is not known."
)
BEATEN_ON_PAIRS = (
    "An external attacker beat this version of the attack suite on pairs of sentences, without any weights: by topics, "
    "tense and persons of English, and by how the second sentence begins. Where texts are English, what this report "
    "states of attackers without weights is too low; later versions contain such attacks."
)
# Suites, by the first version with the attacks of the first attacker, and of the second one.
STRONGER = {"quick": 4, "default": 6, "adaptive": 7, "full": 5}
KNOWING = {"quick": 7, "default": 9, "adaptive": 10, "full": 8}


def judge_limits(report: AttackReport) -> str:
    """What is known of attackers who were stronger than the suite of a report."""
    suite = report.suite
    if suite.name not in STRONGER:
        return UNTRIED
    if suite.version < STRONGER[suite.name]:
        return BEATEN
    of_pairs = any(report.tasks[task].pairs for task in report.blocked())
    return BEATEN_ON_PAIRS if of_pairs and suite.version < KNOWING[suite.name] else BEATEN_BEFORE


def judged(report: AttackReport) -> str:
    """Say what a number depends on beside data and attacks: the judge's version, precision, and sharding."""
    version = report.versions.get("hf-selfdestruct", f"version {NOT_STATED}")
    half = {str(run.settings.get("precision", "float32")) for run in report.runs if run.chosen} - {"float32"}
    passes = f", some forward passes in {', '.join(sorted(half))}" if half else ""
    recipe, trained = report.recipe, NOT_STATED
    if "bf16" in recipe:
        many = recipe.get("processes", 1)
        trained = f"{'bf16' if recipe['bf16'] else 'float32'} on {many} process{'es' * (many != 1)}"
        known = recipe.get("sharded", False if many == 1 else None)
        trained += f", sharding {NOT_STATED}" if known is None else f", weights {'' if known else 'not '}sharded"
    suite = f"{report.suite.name}, version {report.suite.version}"
    return (
        f"Judge: suite {suite}, of hf-selfdestruct {version}; attacks train weights in float32{passes}. "
        f"Hardening: {trained}."
    )


def evidence_of(report: AttackReport) -> dict[str, Any]:
    """Return everything that the templates of a card and of a page show of a report, by the name they use.

    Raises:
        ValueError: The report has no blocked tasks or no hardened model.
    """
    if not report.tasks:
        raise ValueError("the report has no blocked tasks, which a card needs; attack a model to write a new report.")
    if "hardened" not in report.models:
        raise ValueError("the report has no hardened model, which a card needs; attack one to write a new report.")
    return {
        "report": report,
        "roles": report.roles(),
        "unlike_plain": report.models["hardened"].unlike_plain,
        "results": results(report),
        "differences": {task: difference_rows(report, task) for task in report.blocked()},
        "added": {task: table for task in report.blocked() if (table := added_rows(report, task))},
        "costs": {task: cost_rows(report, task) for task in report.blocked()},
        "references": {task: reference_lines(report, task) for task in report.blocked()},
        "given": reference(report),
        "controls": {task: table for task in report.controls() if (table := control_rows(report, task))},
        "outside": sorted(name for name, facts in report.attacks.items() if facts.outside),
        "assumptions": sorted({one for facts in report.attacks.values() for one in facts.assumes.split("; ") if one}),
        "scored": scored(report),
        "readings": reading_lines(report),
        "desired_kept": desired_kept(report),
        "rows": {task: attack_rows(report, task) for task in report.tasks},
        "desired": desired_lines(report),
        "selected_on": _selected_on(report),
        "most_examples": max((n for task in report.blocked() for n in report.budgets(task)), default=NOT_STATED),
        "before_training": [
            text.format(report.recipe[name]) for name, text in CLOSED_FORMS.items() if name in report.recipe
        ],
        "recipe": flat(report.recipe),
        "attacked_by": {run.attack for run in report.runs if (run.role, run.status) == ("hardened", "ok")},
        "seconds": sum(run.seconds for run in report.runs),
        "seeds": _seeds(report),
        "judged": judged(report),
        "JUDGE_LIMITS": judge_limits(report),
        "BESIDE": BESIDE,
        "DIFFERENCES": DIFFERENCES,
        "WITHOUT_PREDICTIONS": WITHOUT_PREDICTIONS,
        "ADDED_COLUMNS": ADDED_COLUMNS,
        "BLOCKED_IF": BLOCKED_IF,
        "NOT_STATED": NOT_STATED,
        "NOT_MEASURED": NOT_MEASURED,
    }


def _selected_on(report: AttackReport) -> str:
    """Number of rows of the selection split; several numbers if blocked tasks differ."""
    counts = {report.tasks[task].rows.selection for task in report.blocked()} - {0}
    return " or ".join(map(str, sorted(counts))) or NOT_STATED


def _seeds(report: AttackReport) -> str:
    """Smallest and largest number of attack seeds of the means."""
    counts = [count for task in report.tasks for count in seeds(report, task)]
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else NOT_STATED
