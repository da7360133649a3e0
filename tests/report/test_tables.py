"""Tables: what the numbers say stands there, and what does not compare is said."""

import dataclasses

import pytest
from made_reports import ROLES, made_labels, made_probabilities, made_report, made_run, predicted_report

from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.report.comparison import difference
from hf_selfdestruct.report.facts import SplitFacts
from hf_selfdestruct.report.recovery import recovery, regret
from hf_selfdestruct.report.tables import comparison_table, control_rows, report_table

LABELS = made_labels()
SKILLS = {"undefended": 3.0, "hardened": 0.6, "scratch": 0.4, "null": 0.4}


def measured(*, first=0, **fields):
    """A report with predictions of three seeds per role, each role's its own."""
    found = {
        role: [made_probabilities(LABELS, skill, first + 10 * i + seed) for seed in range(3)]
        for i, (role, skill) in enumerate(SKILLS.items())
    }
    return predicted_report(LABELS, found, **fields)


def cells(text, start):
    """Cells of the one row that starts with this cell, in the table below this title."""
    title, first = start
    rows = text[text.index(title) :].splitlines()
    return next(c[1:] for row in rows if (c := [cell.strip() for cell in row.strip("│").split("│")])[0] == first)


# One report


def test_headline_table_shows_the_differences():
    report = measured()
    expected = [
        difference(report, "gender", 20),
        difference(report, "gender", 20, metric="auc"),
        difference(report, "gender", 20, "undefended", "hardened"),
        difference(report, "gender", 20, "null", "scratch"),
    ]
    assert len({str(one) for one in expected}) == 4, "each its own"
    assert cells(report_table(report, 140), ("Strongest attack against", "20")) == ["head only", *map(str, expected)]


def test_cost_table_shows_recovery_and_regret():
    report = measured(extra=(made_run(attack="careful", desired_drop=0.01, accuracy=0.55),))
    text = report_table(report, 140)
    for role in ("undefended", "hardened", "scratch"):
        kept = "0.550" if role == "hardened" else "not measured"
        assert cells(text, ("Cost to recover", role)) == [*recovery(report, "gender", role).cells(), kept]
    assert f"20: {regret(report, 'gender')[20]}" in " ".join(text.split())


def test_what_is_to_be_recovered_is_named_rightly():
    """Without an undefended model it is what the base gives."""
    for roles, whole in ((ROLES, "undefended"), (("base", "hardened", "scratch"), "base")):
        report = made_report(roles=roles)
        assert f"90 % of the {whole} model's gain" in " ".join(report_table(report, 140).split())
        assert f"90 % of the {whole} model's gain" in render(report, CardDetails())


def test_references_stand_in_the_caption():
    extra = (made_run(role="raw", accuracy=0.71), made_run(role="more", accuracy=0.82, examples=500))
    text = " ".join(report_table(measured(extra=extra), 200).split())
    assert "raw input without a model 0.710" in text
    assert "scratch with more data and steps 0.820" in text
    assert "raw input" not in report_table(measured(), 200)


def test_a_control_task_is_titled_as_one():
    facts = made_report().tasks["gender"]
    tasks = {"gender": facts, "topic": dataclasses.replace(facts, control=True)}
    text = " ".join(report_table(made_report(tasks=tasks, extra=(made_run(task="topic"),)), 140).split())
    assert "Blocked task 'gender': test accuracy after attack (suite smoke v1; lower is better)" in text
    assert "Control task 'topic': test accuracy after attack (suite smoke v1; higher is better)" in text
    assert text.count("Strongest attack against strongest attack") == 1, "a control has no headline"


def test_a_control_task_shows_what_is_left_and_what_it_costs():
    report = measured()
    runs = [dataclasses.replace(run, task="topic") for run in report.runs]
    report = dataclasses.replace(
        report, tasks={"topic": dataclasses.replace(report.tasks["gender"], control=True)}, runs=runs
    )
    for row in control_rows(report, "topic"):
        assert cells(report_table(report, 140), ("Benign fine-tuning", row[0])) == row[1:]
        best, cost = report.strongest("topic", 20, row[0]), recovery(report, "topic", row[0])
        apart = "not measured" if row[0] == "undefended" else str(difference(report, "topic", 20, row[0], "undefended"))
        assert row[1:] == [f"{best.mean:.3f} ± {best.deviation:.3f}", apart, *cost.cells()[1:]]
    assert [row[0] for row in control_rows(report, "topic")] == ["undefended", "hardened", "scratch"]


def test_attacks_outside_the_headline_are_marked_and_never_strongest():
    extra = (made_run(attack="interpolation", accuracy=0.99),)
    text = report_table(made_report(extra=extra, attacks={"interpolation": {"outside": True}}), 140)
    assert cells(text, ("Blocked task", "interpolation (outside)"))[3] == "0.990"
    assert cells(text, ("Blocked task", "strongest"))[3] == "0.550 ± 0.030"


# Several reports


def test_reports_stand_side_by_side():
    reports = [measured(), measured(first=100)]
    text = comparison_table(reports, ["mine", "theirs"])
    expected = []
    for report in reports:
        best = report.strongest("gender", 20, "hardened")
        expected += [f"{best.mean:.3f} ± {best.deviation:.3f}", str(difference(report, "gender", 20))]
    assert expected[:2] != expected[2:]
    assert cells(text, ("strongest attack on each model", "20")) == expected
    assert "mine" in text
    assert "theirs" in text
    assert "check:" not in text


def test_a_number_of_examples_that_one_lacks_is_not_measured():
    short = made_report(runs=tuple(run for run in made_report().runs if run.examples == 20))
    row = cells(comparison_table([made_report(), short], ["a", "b"]), ("strongest attack on each", "100"))
    assert row == ["0.610 ± 0.010", *["not measured"] * 3]


@pytest.mark.parametrize("suite", [{"name": "default", "version": 1}, {"name": "smoke", "version": 2}])
def test_different_suites_do_not_compare(suite):
    text = comparison_table([made_report(), made_report(suite=suite)], ["a", "b"])
    assert "doubt: the suites differ" in text
    assert f"{suite['name']} v{suite['version']}" in text
    assert "smoke v1" in text


def test_different_data_do_not_compare():
    facts = made_report().tasks["gender"]
    other = dataclasses.replace(facts, fingerprints=facts.fingerprints | {"test": SplitFacts(200, "f" * 64)})
    text = comparison_table([made_report(), made_report(tasks={"gender": other})], ["a", "b"])
    assert "doubt: gender: the data differ" in text
    assert "the suites differ" not in text


def test_only_blocked_tasks_in_common_are_compared():
    facts = made_report().tasks["gender"]
    both, one = made_report(tasks={"gender": facts, "age": facts}), made_report()
    assert "'age'" not in comparison_table([both, one], ["a", "b"])
    assert "'age'" in comparison_table([both, both], ["a", "b"])
    control = made_report(tasks={"gender": dataclasses.replace(facts, control=True)})
    for reports in ([one, control], [control, one], [one, made_report(tasks={"age": facts}, runs=())]):
        with pytest.raises(ValueError, match="no blocked task in common"):
            comparison_table(reports, ["a", "b"])


# Text


@pytest.mark.parametrize("width", [60, 100, 130, 250])
def test_width_is_respected(width):
    report = measured(checks=("a doubt that has a great deal to say " * 10,), extra=(made_run(attack="long " * 40),))
    for text in (report_table(report, width), comparison_table([report] * 2, ["a" * 99, "b"], width)):
        assert max(map(len, text.splitlines())) <= width
    assert max(map(len, report_table(report, width).splitlines())) > min(width, 110) * 0.8


def test_the_text_is_the_same_in_a_notebook(monkeypatch):
    usual = report_table(measured(), 130)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert report_table(measured(), 130) == usual != ""


def test_what_steers_a_terminal_is_left_out():
    evil = "\x1b]0;owned\x07\x1b[2J\r\u202ename"
    facts = made_report().tasks["gender"]
    report = measured(
        checks=(evil,), extra=(made_run(attack=evil),), suite={"name": evil, "version": 1},
        desired={"dataset": evil, "hardened": {evil: 0.5}},
    )  # fmt: skip
    other = made_report(suite={"name": "x" + evil, "version": 1}, tasks={"gender": facts})
    for text in (report_table(report, 140), comparison_table([report, other], [evil, "b"], 140)):
        assert "name" in text
        assert all(c == "\n" or c.isprintable() for c in text)
