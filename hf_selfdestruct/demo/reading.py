"""The demo's last words: what its table says, where the files are, and what to do next. No torch."""

from __future__ import annotations

from pathlib import Path

from ..report.attack_run import FILTERED
from ..report.comparison import Difference, difference
from ..report.facts import TaskFacts
from ..report.report import AttackReport

MODELS = {
    "undefended": "the undefended one",
    "base": "the base",
    "filtered": "one that never saw the task (filtered)",
    "scratch": "random weights (scratch)",
}


def last_words(report: AttackReport, folder: str | Path, *, command: str = "hf-selfdestruct") -> str:
    """What is printed below the table.

    Args:
        report: The demo's report, of one blocked task.
        folder: The folder that the demo wrote.
        command: How the command line is called.
    """
    rows = {
        f"{Path(folder, 'README.md')}": "the model card",
        f"{Path(folder, 'selfdestruct')}": "the report and its plots",
        f"{Path(folder, 'model.safetensors')}": "the hardened model, which plain transformers loads",
        f"{command} verify {folder}": "checks the files and the report",
        f"{command} init mine.yaml": f"writes a configuration for your data; then: {command} harden mine.yaml",
    }
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {words}" for name, words in rows.items()]
    return "\n".join([reading(report), "", "Files:", *lines[:3], "Next:", *lines[3:], ""])


def reading(report: AttackReport) -> str:
    """The result in two sentences: what an attacker gets from each model, and what hardening took.

    It reads the largest number of examples at which hardening took something for certain; where there is none, the
    largest of all, and says so.

    Args:
        report: A report of one blocked task.
    """
    task = report.blocked()[0]
    facts = report.tasks[task]
    taken = {n: difference(report, task, n, "undefended", "hardened") for n in report.budgets(task)}
    certain = [n for n, one in taken.items() if one and one.low > 0]
    examples = max(certain or taken)
    got = {
        role: f"{_score(report, task, examples, role)} from {name}"
        for role, name in MODELS.items()
        if role in report.models or role != FILTERED
    }
    undefended, *others, last = got.values()
    first = (
        f"An attacker with {examples} examples of the blocked task ({task}) "
        f"{'is left with a loss in nats per token of' if facts.has_tokens else 'gets'} "
        f"{_score(report, task, examples, 'hardened')} from the hardened model, {undefended}, "
        f"{', '.join(others)} and {last}; the input alone gives "
        f"{_score(report, task, examples, 'raw')}, and guessing {_shown(facts, facts.majority)}."
    )
    return f"{first}\n{_judgement(report, facts, taken[examples], certain=bool(certain))}"


def _judgement(report: AttackReport, facts: TaskFacts, taken: Difference | None, *, certain: bool) -> str:
    metric = "loss" if facts.has_tokens else "accuracy"
    kept = " and ".join(
        f"{report.desired.of(role).get(metric, float('nan')):.2f} ({role})" for role in ("hardened", "undefended")
    )
    desired = f"the desired {'text has a loss of' if facts.has_tokens else 'task is predicted with'} {kept}"
    if taken is None:
        return f"What hardening took was not measured; {desired}."
    unit = "nats per token" if facts.has_tokens else "of accuracy"
    amount = f"{taken.mean:.2f} {unit} (95 % interval {taken.low:.2f} to {taken.high:.2f})"
    if certain:
        return f"Hardening took {amount} from this attacker, while {desired}."
    return f"No effect of hardening is certain: it took {amount}, and {desired}."


def _score(report: AttackReport, task: str, examples: int, role: str) -> str:
    best = report.strongest(task, examples, role)
    return _shown(report.tasks[task], best.mean) if best else "an unmeasured score"


def _shown(facts: TaskFacts, score: float) -> str:
    """A score of classes as it is, a log-likelihood as the loss that it is."""
    return f"{-score if facts.has_tokens else score:.2f}"
