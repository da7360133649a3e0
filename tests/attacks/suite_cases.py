"""Suites over models that are no models, and over real ones."""

from hf_selfdestruct.attacks import AttackSuite, Entry


def suite_of(*attacks, examples=(10, None), **fields):
    entries = tuple(Entry(attack, examples) for attack in attacks)
    return AttackSuite("mine", 1, entries, **{"seeds": 2, "few_seeds": 0, "more": None, **fields})


def on_models(report):
    """Runs on the models themselves, references left out."""
    return [run for run in report.runs if run.role in report.roles()]
