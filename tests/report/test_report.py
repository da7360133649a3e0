"""A report: round trip, saving, summaries, table."""

import json
import math
import statistics
import subprocess
import sys

import pytest
from made_reports import ACCURACY, ROLES, made_report, made_run, raw_report

from hf_selfdestruct.attacks.doubts import doubts
from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.report import attack_run as runs
from hf_selfdestruct.report.facts import DesiredFacts
from hf_selfdestruct.report.report import AttackReport

# Round trip


def test_round_trip_is_exact(tmp_path):
    report = made_report(extra=(made_run(failed=True, chosen=False, seed=9),), checks=("a doubt", "another <one>"))
    assert AttackReport.from_json(report.to_json()) == report
    report.save(tmp_path / "deep" / "report.json")
    again = AttackReport.load(tmp_path / "deep" / "report.json")
    assert again == report
    assert again.to_json() == report.to_json() == (tmp_path / "deep" / "report.json").read_text()


def test_equal_reports_are_equal_texts():
    one, other = made_report(), made_report(models=dict(reversed(made_report().models.items())))
    assert one == other
    assert one.to_json() == other.to_json()


def test_fields_with_defaults_may_be_missing():
    raw = raw_report()
    for name in ("attacks", "desired", "recipe", "checks", "versions", "schema_version"):
        del raw[name]
    for run in raw["runs"]:
        for name in ("error", "flops", "curve", "desired_drop", "optimism", "found", "predictions"):
            del run[name]
        for split in ("selection", "test"):
            del run[split]["extra"]
    report = AttackReport.from_json(json.dumps(raw))
    assert (report.desired, report.recipe, report.checks, report.versions) == (DesiredFacts(), {}, (), {})
    assert report.runs == made_report().runs


def test_what_is_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        made_report(desired={"hardened": {"accuracy": math.nan}}).save(tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


# Saving


def test_failed_save_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    old = made_report(checks=("old",))
    old.save(path)
    (tmp_path / "report.json.part").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match="part"):
        made_report(checks=("new",)).save(path)
    assert AttackReport.load(path) == old


def test_save_stopped_half_way_leaves_the_old_report(tmp_path):
    """A process whose file size is limited writes half a report and dies; the old one is still whole."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "report.json"
    old = made_report(checks=("old",))
    old.save(path)
    (tmp_path / "new.json").write_text(made_report(checks=("new",) * 2000).to_json())
    code = (
        "import resource, sys; from hf_selfdestruct.report.report import AttackReport\n"
        "report = AttackReport.load(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))\n"
        "report.save(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new.json"), str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode != 0
    assert AttackReport.load(path) == old
    made_report(checks=("new",)).save(path)
    assert AttackReport.load(path).checks == ("new",)
    assert not list(tmp_path.glob("*.part"))


# Summaries


def test_summaries_equal_sums_by_hand():
    report = made_report()
    found = {(s.role, s.attack, s.examples): s for s in report.summaries("gender")}
    expected = {(r, a, n) for r, attacks in ACCURACY.items() for a, budgets in attacks.items() for n in budgets}
    assert set(found) == expected
    for (role, attack, examples), s in found.items():
        values = ACCURACY[role][attack][examples]
        mean = sum(values) / 3
        assert s.mean == pytest.approx(mean, abs=1e-12)
        assert s.deviation == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2), abs=1e-9)
        assert (s.seeds, s.worst) == (3, max(values))
        assert s.auc == pytest.approx(0.61)


def test_only_chosen_successful_runs_of_the_task_count():
    kept = [made_run(seed=s, accuracy=a, auc=a + 0.1, chose_by=0.5 + s / 10) for s, a in ((0, 0.4), (1, 0.6))]
    left_out = (
        made_run(seed=2, accuracy=0.99, chosen=False),
        made_run(seed=3, failed=True),
        made_run(seed=4, accuracy=0.99, task="age"),
    )
    tasks = {"gender": {"majority": 0.5}, "age": {"majority": 0.5}}
    (s,) = made_report(runs=(*kept, *left_out), tasks=tasks).summaries("gender")
    assert (s.seeds, s.worst) == (2, 0.6)
    assert s.mean == pytest.approx(0.5)
    assert s.deviation == pytest.approx(statistics.stdev([0.4, 0.6]))
    assert s.auc == pytest.approx(0.6)
    assert s.selection == pytest.approx(0.55)


def test_one_seed_has_no_spread():
    (s,) = made_report(runs=(made_run(accuracy=0.4),)).summaries("gender")
    assert math.isnan(s.deviation)
    assert s.seeds == 1


def test_strongest_is_chosen_by_selection_not_by_test():
    report = made_report()
    chosen = report.strongest("gender", 100, "hardened")
    assert (chosen.attack, chosen.mean) == ("head only", pytest.approx(0.61))
    best_on_test = max((s for s in report.summaries("gender") if s.role == "hardened"), key=lambda s: s.mean)
    assert best_on_test.attack == "full fine-tuning", "the made report should tempt"
    assert report.strongest("gender", 20, "scratch").mean == pytest.approx(0.56)
    assert report.strongest("gender", 7, "scratch") is None


def test_budgets_and_roles_are_ordered():
    report = made_report(models={role: {} for role in reversed(ROLES)})
    assert report.budgets("gender") == [20, 100]
    assert report.budgets("age") == []
    assert tuple(report.roles()) == ROLES


# Table


def test_table_says_everything():
    missing = tuple(r for r in made_report().runs if (r.role, r.attack) != ("base", "full fine-tuning"))
    text = made_report(runs=missing, checks=("too few seeds",)).table(width=200)
    for word in (*ROLES, "gender", "smoke", "strongest", "head only", "full fine-tuning", "too few seeds", "0.530"):
        assert word in text
    lines = [line for line in text.splitlines() if "│ full fine-tuning" in line]
    assert len(lines) == 1
    assert "not measured" in lines[0]
    assert "0.630 ± 0.010" in lines[0]
    strongest = [line for line in text.splitlines() if line.startswith("│ strongest ")]
    assert len(strongest) == 2
    assert "0.610 ± 0.010" in strongest[1], "by selection, not by test"
    assert "hardened accuracy 0.8125" in text
    assert "the desired task's test split" in text


def test_table_says_when_the_desired_task_was_not_measured():
    assert "not measured" in made_report(desired={}).table().splitlines()[-1]
    assert "not measured" not in made_report().table().splitlines()[-1]


def test_table_shows_values_literally():
    """What stands in brackets is text, not colour."""
    doubt = "gender: 1 runs failed (RuntimeError: [cpu] shape [a, b] [/bold] [link=http://x]here)"
    run = made_run(attack="[bold]probe[/italic]", examples=100)
    wide = made_report(checks=(doubt,), extra=(run,)).table(width=300)
    assert doubt in wide
    assert "[bold]probe[/italic]" in wide


def test_table_sends_no_control_characters_to_the_terminal():
    raw = json.loads(made_report(checks=("\x1b]0;owned\x07 \x1b[2J doubt",)).to_json())
    try:
        text = AttackReport.from_json(json.dumps(raw)).table()
    except ValueError:
        return
    assert "\x1b" not in text


def test_what_a_card_costs_grows_with_the_runs_alone(monkeypatch):
    """However often tables, plots and doubts ask for a summary, it is made once."""
    made = []
    monkeypatch.setattr(runs, "summarise", lambda group, real=runs.summarise: made.append(group) or real(group))
    budgets = range(1, 41)
    many = [made_run(role=role, examples=n) for n in budgets for role in ROLES]
    report = made_report(runs=tuple(many))
    assert f"| gender | {budgets[-1]} |" in render(report, CardDetails())
    report.table()
    doubts(report)
    assert len(made) == len(many)
    assert AttackReport.from_json(report.to_json()) == report


def test_asking_changes_nothing():
    report = made_report()
    before = report.to_json(), report.budgets("gender")
    assert report.strongest("gender", 7, "hardened") is None
    report.summaries("gender").clear()
    report.runs_of("gender", 20, "hardened").clear()
    assert (report.to_json(), report.budgets("gender")) == before
    assert report.strongest("gender", 20, "hardened").attack == "head only"
