"""Development rows are for suites to choose by, test rows for all others; who read which is on file."""

import dataclasses
import json
from collections import Counter

import pytest
from conftest import task_of
from ledger_attacks import Counting
from suite_cases import suite_of

from hf_selfdestruct.attacks import Entry, HeadOnly, Target, named_suite
from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.attacks.suites.readings import read
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.report.facts import Readings, SplitFacts
from hf_selfdestruct.report.packing import unpacked, unpacked_labels
from hf_selfdestruct.report.report import AttackReport

CHOOSING, OTHER = (
    dataclasses.replace(named_suite(name), entries=(Entry(HeadOnly(), (None,)),), seeds=1, more=None)
    for name in ("glance", "quick")
)


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "evidence" / "readings.jsonl"


@pytest.fixture
def task(ledger):
    return dataclasses.replace(task_of(rows=120), development=0.4, readings=ledger)


@pytest.fixture
def model(folder):
    return [Target("hardened", folder)]


def lines(ledger):
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_glance_is_the_only_suite_for_choosing():
    assert [name for name, suite in SUITES.items() if suite.choosing] == ["glance"]


@pytest.mark.parametrize(("suite", "split"), [(CHOOSING, "development"), (OTHER, "test")])
def test_scores_are_on_the_rows_of_one_part_alone(model, task, attacked, suite, split):
    report = attacked(suite, model, [task])
    facts = report.tasks["toy"]
    assert facts.scored_on == split
    expected = task.labels(split).tolist()
    assert unpacked_labels(facts.labels).tolist() == expected
    assert facts.rows.test == facts.fingerprints[split].rows == len(expected)
    assert facts.fingerprints[split] == SplitFacts(**task.fingerprints()[split])
    predicted = [unpacked(run.predictions, 2) for run in report.runs if run.chosen]
    assert predicted
    assert {len(one) for one in predicted} == {len(expected)} != {120}
    assert f"{split} accuracy after attack" in " ".join(report.table().split())
    assert AttackReport.from_json(report.to_json()) == report


def test_runs_on_development_and_on_test_rows_are_told_apart_on_record(model, task, attacked, storage):
    """Scores of one part must not be taken over for those of the other."""
    attack = Counting({"a": 0.5})
    for choosing in (True, False, True):  # the third is on record
        attacked(suite_of(attack, choosing=choosing, null=False), model, [task], storage=storage)
    assert set(Counter(attack.calls).values()) == {2}


def test_a_suite_for_choosing_says_that_it_read_test_rows(model, task, attacked):
    whole = task_of(rows=60)
    doubt = "toy: the suite glance is for choosing, and it read the test rows"
    assert [line for line in attacked(CHOOSING, model, [whole]).checks if line.startswith(doubt)]
    assert not [line for line in attacked(OTHER, model, [whole]).checks if line.startswith(doubt)]
    assert not [line for line in attacked(CHOOSING, model, [task]).checks if line.startswith(doubt)]


def test_nothing_is_recorded_or_written_otherwise_without_development_rows(model, attacked, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = attacked(OTHER, model, [task_of(rows=60)])
    assert [*tmp_path.iterdir()] == []
    written = json.loads(report.to_json())
    assert not {"scored_on", "earlier", "development"} & {*written["tasks"]["toy"], *written["tasks"]["toy"]["rows"]}
    assert "choosing" not in written["suite"]
    assert "Before this report" not in report.table()


def test_every_reading_is_on_file_and_the_next_report_counts_it(task, attacked, ledger, save_model, tmp_path):
    found = []
    models = [save_model(tmp_path / str(seed), seed=seed) for seed in range(3)]
    choosing, other = (dataclasses.replace(suite, few_seeds=1, null=False) for suite in (CHOOSING, OTHER))
    for suite, number in ((choosing, 0), (choosing, 1), (other, 1), (other, 2), (choosing, 2)):
        targets = [Target("hardened", models[number]), Target("scratch", models[number], random=True)]
        found.append(attacked(suite, targets, [task]).tasks["toy"].earlier)
    # Three results in each: the attack on both models, and the raw input.
    assert found == [Readings(), Readings(0, 1, 3), Readings(0, 2, 6), Readings(1, 2, 6), Readings(2, 2, 6)]
    written = lines(ledger)
    assert [(line["split"], line["suite"], line["comparisons"]) for line in written] == [
        ("development", "glance", 3), ("development", "glance", 3), ("test", "quick", 3), ("test", "quick", 3),
        ("development", "glance", 3),
    ]  # fmt: skip
    hashes = [Target("hardened", model).identity().sha256 for model in models]
    assert [line["models"] for line in written] == [{"hardened": hashes[i]} for i in (0, 1, 1, 2, 2)]
    for line in written:
        assert (line["task"], line["rows"]) == ("toy", len(task.labels(line["split"])))
        assert line["sha256"] == task.documents_sha256(line["split"])


def test_a_repeated_or_resumed_reading_counts_once_and_gives_the_same_report(model, task, attacked, ledger, storage):
    other = suite_of(Counting({"a": 0.5}), examples=(None,))
    first = attacked(OTHER, model, [task], storage=storage)
    attacked(other, model, [task])
    assert attacked(OTHER, model, [task], storage=storage) == first
    assert len(lines(ledger)) == 2
    ledger.write_text(ledger.read_text() * 2)
    assert [one.suite for one in read(ledger).values()] == ["quick", "mine"]


def test_an_interrupted_suite_has_read_the_rows(model, task, attacked, ledger):
    with pytest.raises(KeyboardInterrupt):
        attacked(suite_of(Counting({"a": 0.5}, dies_at=0)), model, [task])
    assert len(lines(ledger)) == 1


def test_readings_of_other_rows_do_not_count(model, task, attacked, ledger):
    attacked(OTHER, model, [dataclasses.replace(task_of("random", rows=90), development=0.4, readings=ledger)])
    attacked(OTHER, model, [dataclasses.replace(task, development=0.5)])
    assert attacked(OTHER, model, [task]).tasks["toy"].earlier == Readings()
    renamed = dataclasses.replace(task, name="again")
    assert attacked(OTHER, model, [renamed]).tasks["again"].earlier == Readings(test=1)


@pytest.mark.parametrize(
    ("line", "where"),
    [(b"{", ", line 1"), (b"[]", ", line 1"), (b'{"when": "today"}', ", line 1"), (b"\xff", "")],
)
def test_a_damaged_file_stops_before_any_attack(model, task, attacked, ledger, line, where):
    ledger.parent.mkdir()
    ledger.write_bytes(line + b"\n")
    attack = Counting({"a": 0.5})
    with pytest.raises(ValueError, match=rf"readings.jsonl{where}: .*Restore the file from version") as error:
        attacked(suite_of(attack), model, [task])
    assert "\n" not in str(error.value)
    assert not attack.calls


@pytest.mark.parametrize(("suite", "split"), [(CHOOSING, "development"), (OTHER, "test")])
def test_a_report_on_the_wrong_rows_departs_from_its_plan(model, task, attacked, monkeypatch, suite, split):
    monkeypatch.setitem(SUITES, suite.name, suite)
    report = attacked(suite, model, [task])

    def rows_wrong(report):
        return [line for line in plan_problems(report) if line.startswith("toy: ")]

    assert rows_wrong(dataclasses.replace(report, suite=dataclasses.replace(report.suite, desired=False))) == []
    wrong = {"test": "development", "development": "test"}[split]
    facts = dataclasses.replace(report.tasks["toy"], scored_on=wrong)
    assert rows_wrong(dataclasses.replace(report, tasks={"toy": facts})) == [
        f"toy: scored on its {wrong} rows; the suite scores on its {split} rows"
    ]
