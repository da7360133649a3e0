"""Every number of a card is in its report, and what was not measured is said."""

import dataclasses
import html
import re

import pytest
from card_parts import DETAILS, cells, section, tables
from made_reports import ROLES, made_labels, made_probabilities, made_report, made_run, predicted_report

from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_tables import results
from hf_selfdestruct.report.comparison import difference
from hf_selfdestruct.report.facts import RowCounts
from hf_selfdestruct.report.recovery import regret
from hf_selfdestruct.report.tables import control_rows

# Control tasks


def test_benign_fine_tuning_stands_beside_the_desired_task():
    facts = made_report().tasks["gender"]
    tasks = {"gender": facts, "topic": dataclasses.replace(facts, control=True)}
    report = made_report(tasks=tasks, extra=(made_run(task="topic"),))
    shown = section(render(report, DETAILS), "Appendix: differences and costs")
    for row in control_rows(report, "topic"):
        assert f"| {' | '.join(row)} |" in html.unescape(shown)
    assert "Benign fine-tuning to **topic**" in shown
    assert "Benign" not in render(made_report(), DETAILS)


# Numbers


def test_every_number_of_the_result_is_in_the_report():
    """Recomputed from the runs alone: choose by selection, then mean and deviation of test accuracy."""
    report = made_report()
    rows = results(report)
    assert len(rows) == 2
    for examples, row in zip((20, 100), rows, strict=True):
        means = {}
        for role in ROLES:
            by_attack = {}
            for run in report.runs:
                if (run.role, run.examples, run.chosen) == (role, examples, True):
                    by_attack.setdefault(run.attack, []).append(run)
            runs = max(by_attack.values(), key=lambda runs: sum(r.selection.accuracy for r in runs) / len(runs))
            tests = [r.test.accuracy for r in runs]
            means[role] = sum(tests) / 3
            deviation = (sum((t - means[role]) ** 2 for t in tests) / 2) ** 0.5
            cell = f"{means[role]:.3f} ± {deviation:.3f}"
            assert row.cells[2 + ROLES.index(role)] == cell
        assert row.cells[:2] == ("gender", str(examples))
        assert row.difference == f"{means['hardened'] - means['scratch']:+.3f}"
        assert (row.attack, row.is_open) == ("head only", False)


def test_seeds_are_those_that_were_run():
    assert "deviation over\nattack seeds (3); 95 % intervals" in render(made_report(), DETAILS)
    more = tuple(made_run(seed=seed) for seed in range(3, 10))
    assert "deviation over\nattack seeds (3 to 10); 95 % intervals" in render(made_report(extra=more), DETAILS)


def test_the_result_is_one_table_before_anything_else():
    report = made_report()
    card = render(report, DETAILS)
    table = tables(card)[0]
    assert [c.strip() for c in cells(table[0])] == [
        *("blocked", "examples", *ROLES), "hardened − scratch", "attack on hardened"
    ]  # fmt: skip
    shown = [[c.strip() for c in cells(line)] for line in table[2:]]
    assert shown == [[*row.cells, row.difference, row.attack] for row in results(report)]
    assert table[0] in section(card, "Result")


@pytest.mark.parametrize(
    ("tag", "lines"),
    [
        ("text-classification", ("AutoModelForSequenceClassification", "tokenizer = AutoTokenizer")),
        ("image-classification", ("AutoModelForImageClassification", "imageprocessor = AutoImageProcessor")),
        ("", ("AutoModel.", "processor = AutoProcessor")),
    ],
)
def test_four_lines_load_the_model(tag, lines):
    code = section(render(made_report(), dataclasses.replace(DETAILS, pipeline_tag=tag)), "Load it")
    (code,) = re.findall(r"^```python\n(.*?)^```", code, flags=re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 4
    assert all(line in code for line in lines)
    compile(code, "card", "exec")
    unlike = {
        **made_report().models,
        "hardened": {"name": "h", "sha256": "h" * 64, "unlike_plain": "its logits differ"},
    }
    assert "```python" not in render(made_report(models=unlike), DETAILS)


def test_every_attack_is_listed_strongest_on_the_hardened_model_first():
    (table,) = tables(f"---\n---\n{section(render(made_report(), DETAILS), 'Appendix: every attack')}")
    rows = [[c.strip() for c in cells(line)] for line in table[2:]]
    assert [row[:3] for row in rows] == [
        ["full fine-tuning", "100", "3 settings, 40 steps"],
        ["head only", "100", "1 setting, no steps"],
        ["head only", "20", "1 setting, no steps"],
    ]
    assert rows[0][3:] == ["0.930 ± 0.000", "0.920 ± 0.000", "0.630 ± 0.010", "0.620 ± 0.010", "0.610 / 0.630"]


def test_the_card_says_how_many_labelled_rows_the_choice_had():
    report = made_report()
    facts = dataclasses.replace(report.tasks["gender"], rows=RowCounts(100, 43, 10))
    card = render(made_report(tasks={"gender": facts}), DETAILS)
    assert "the selection split (43 labelled rows besides the examples)." in card


def test_an_attack_that_failed_everywhere_is_no_convex_fit():
    failed = [made_run(attack="faster embeddings", role=role, failed=True) for role in ROLES]
    (table,) = tables(
        f"---\n---\n{section(render(made_report(extra=tuple(failed)), DETAILS), 'Appendix: every attack')}"
    )
    rows = {row[0]: row for row in ([c.strip() for c in cells(line)] for line in table[2:])}
    assert rows["faster embeddings"][2:] == ["1 setting, failed", *["not measured"] * 5]


def at(hardened, scratch):
    runs = tuple(
        made_run(role=role, seed=seed, accuracy=value + shift)
        for role, value in (("hardened", hardened), ("scratch", scratch))
        for seed, shift in enumerate((-0.01, 0.0, 0.01))
    )
    return made_report(roles=("hardened", "scratch"), runs=runs)


@pytest.mark.parametrize(
    ("hardened", "scratch", "blocked"),
    [(0.64, 0.60, False), (0.632, 0.60, False), (0.628, 0.60, True), (0.60, 0.60, True), (0.50, 0.60, True)],
)
def test_negative_result_is_said_and_only_then(hardened, scratch, blocked):
    card = render(at(hardened, scratch), DETAILS)
    assert ("not blocked" in section(card, "Result")) is not blocked
    assert f"{hardened - scratch:+.3f}" in section(card, "Result")


@pytest.mark.parametrize(("skill", "blocked"), [(0.0, True), (0.5, True), (0.6, True), (3.0, False)])
def test_with_predictions_the_interval_decides_what_is_blocked(skill, blocked):
    labels = made_labels()
    skills = {"hardened": skill, "scratch": 0.5}
    found = {r: [made_probabilities(labels, s, seed) for seed in range(3)] for r, s in skills.items()}
    report = predicted_report(labels, found)
    result = html.unescape(section(render(report, DETAILS), "Result"))
    interval = difference(report, "gender", 20)
    assert ("not blocked" in result) is not blocked
    assert (interval.low > 0) is not blocked
    assert (interval.mean > 0) == (skill > 0.5), "a mean above zero is no break by itself"
    assert result.count(str(interval)) == 1
    rows = html.unescape(section(render(report, DETAILS), "Appendix: differences and costs"))
    (row,) = re.findall(r"^\| 20 \|.*", rows, flags=re.MULTILINE)
    auc, loss = difference(report, "gender", 20, metric="auc"), regret(report, "gender")[20]
    assert [c.strip() for c in cells(row)] == ["20", str(interval), str(auc), *["not measured"] * 2, str(loss)]


def test_without_scratch_nothing_is_said_of_it():
    report = made_report(roles=("base", "hardened"), runs=made_report(roles=("base", "hardened")).runs)
    result = section(render(report, DETAILS), "Result")
    assert [row.difference for row in results(report)] == ["not measured"] * 2
    assert "not blocked" not in result


def test_desired_quality_is_printed_or_not_measured():
    text = section(render(made_report(), DETAILS), "Result")
    (line,) = re.findall(r"^- Desired task: .*", text, flags=re.MULTILINE)
    assert "accuracy undefended 0.8400, hardened 0.8125; loss undefended 0.4900, hardened 0.5100" in line
    assert "the desired task's test split" in line
    assert "\n- Desired task: not measured.\n" in section(render(made_report(desired={}), DETAILS), "Result")


def test_the_points_of_proportional_evaluation_count_the_attacks_that_ran():
    def modified(report):
        return cells(next(line for line in render(report, DETAILS).splitlines() if line.startswith("| PE2")))[1].strip()

    report = made_report()
    ran = {run.attack for run in report.runs if run.role == "hardened" and run.status == "ok"}
    assert modified(report).startswith(f"{len(ran)} attacks")
    nobody = tuple(dataclasses.replace(r, status="failed") if r.role == "hardened" else r for r in report.runs)
    assert modified(dataclasses.replace(report, runs=nobody)) == "not measured"
