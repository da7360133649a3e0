"""The report: what it says is what was found, and nothing else passes for one."""

import copy
import json
import math
import random
import statistics
import subprocess
import sys

import pytest
from made_reports import ACCURACY, ROLES, made_report, made_run

from hf_selfdestruct import report as room
from hf_selfdestruct.report import AttackReport


def raw_report(**fields):
    return json.loads(made_report(**fields).to_json())


def changed(change):
    raw = raw_report()
    change(raw)
    return json.dumps(raw)


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
    assert (report.desired, report.recipe, report.checks, report.versions) == ({}, {}, (), {})
    assert report.runs == made_report().runs


def test_what_is_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        made_report(desired={"hardened": {"accuracy": math.nan}}).save(tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


# Malformed input


def first_run(**values):
    return lambda raw: raw["runs"][0].update(values)


def first_score(split="test", **values):
    return lambda raw: raw["runs"][0][split].update(values)


def drop(where, name):
    return lambda raw: where(raw).pop(name)


MALFORMED = {
    "unknown field": (lambda raw: raw.update(verdict="safe"), "verdict"),
    "unknown field of a run": (first_run(score=1.0), r"runs\[0\].*score"),
    "unknown score": (lambda raw: raw["runs"][0]["test"].update(f1=1.0), r"runs\[0\]\.test.*f1"),
    "no suite": (drop(lambda raw: raw, "suite"), "suite"),
    "no runs": (drop(lambda raw: raw, "runs"), "runs"),
    "run without seed": (drop(lambda raw: raw["runs"][0], "seed"), r"runs\[0\].*seed"),
    "test without auc": (drop(lambda raw: raw["runs"][0]["test"], "auc"), r"runs\[0\]\.test.*auc"),
    "suite without name": (drop(lambda raw: raw["suite"], "name"), "suite.*name"),
    "task without majority": (drop(lambda raw: raw["tasks"]["gender"], "majority"), "gender.*majority"),
    "suite a text": (lambda raw: raw.update(suite="smoke"), "suite"),
    "tasks a list": (lambda raw: raw.update(tasks=["gender"]), "tasks"),
    "models null": (lambda raw: raw.update(models=None), "models"),
    "runs an object": (lambda raw: raw.update(runs={}), "runs"),
    "run a number": (lambda raw: raw["runs"].insert(0, 3), r"runs\[0\]"),
    "checks a number": (lambda raw: raw.update(checks=5), "checks"),
    "checks a text": (lambda raw: raw.update(checks="none"), "checks"),
    "checks null": (lambda raw: raw.update(checks=None), "checks"),
    "model a text": (lambda raw: raw["models"].update(hardened="x"), "models"),
    "desired a list": (lambda raw: raw["desired"].update(hardened=[1]), "desired"),
    "desired metric a text": (lambda raw: raw["desired"].update(hardened={"accuracy": "high"}), "desired"),
    "examples a text": (first_run(examples="20"), r"runs\[0\].*examples"),
    "examples a float": (first_run(examples=20.5), r"runs\[0\].*examples"),
    "seed null": (first_run(seed=None), r"runs\[0\].*seed"),
    "settings a list": (first_run(settings=[]), r"runs\[0\].*settings"),
    "chosen a text": (first_run(chosen="no"), r"runs\[0\].*chosen"),
    "steps a text": (first_run(steps="40"), r"runs\[0\].*steps"),
    "seconds a text": (first_run(seconds="1"), r"runs\[0\].*seconds"),
    "attack an object": (first_run(attack={}), r"runs\[0\].*attack"),
    "task a list": (first_run(task=[]), r"runs\[0\].*task"),
    "task not listed": (first_run(task="age"), "age"),
    "other role": (first_run(role="teacher"), r"runs\[0\].*role"),
    "other status": (first_run(status="resisted"), r"runs\[0\].*status"),
    "score above 1": (first_score(accuracy=1.2), r"runs\[0\]\.test"),
    "score below 0": (first_score("selection", auc=-0.5), r"runs\[0\]\.selection"),
    "score a text": (first_score(accuracy="0.9"), r"runs\[0\]\.test"),
    "score true": (first_score(accuracy=True), r"runs\[0\]\.test"),
    "score not a number": (first_score(accuracy=math.nan), "NaN"),
    "failed with scores": (first_run(status="failed"), r"runs\[0\].*failed"),
    "ok without scores": (first_run(test=None), r"runs\[0\].*test"),
    "majority a text": (lambda raw: raw["tasks"]["gender"].update(majority="half"), "majority"),
    "other schema": (lambda raw: raw.update(schema_version=1), "schema_version 1"),
    "schema a text": (lambda raw: raw.update(schema_version="2"), "schema_version '2'"),
    "a list": (lambda raw: raw, "expected an object"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_report_is_refused_by_name(name):
    change, named = MALFORMED[name]
    text = "[]" if name == "a list" else changed(change)
    with pytest.raises(ValueError, match=named):
        AttackReport.from_json(text)


@pytest.mark.parametrize(
    "text", ["", "not json", "{", '{"suite": }', "null", "7", "\x00", "[" * 200_000, '{"a":' * 99_999]
)
def test_what_is_not_json_is_not_a_report(text):
    with pytest.raises(ValueError, match=r"not a report|expected an object"):
        AttackReport.from_json(text)


def test_unreadable_files_are_refused_by_path(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(ValueError, match=r"no report at .*report\.json"):
        AttackReport.load(path)
    with pytest.raises(ValueError, match="no report at"):
        AttackReport.load(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"report\.json"):
        AttackReport.load(path)
    path.write_text(changed(first_run(role="teacher")))
    with pytest.raises(ValueError, match=r"report\.json.*role"):
        AttackReport.load(path)


def test_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.truncate(8 * 1024**4)  # sparse: reading it would take all the memory there is
    with pytest.raises(ValueError, match=f"at most {room.MOST_BYTES}"):
        AttackReport.load(path)


def spots(value, path=()):
    """Every place in a JSON value, as a path of keys."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from spots(child, (*path, key))


def mutated(raw, random_):
    """One or two random places replaced, removed, renamed or doubled."""
    raw = copy.deepcopy(raw)
    junk = (None, True, -1, 0, 3.7, 1e308, math.inf, "", "hardened", "\ud800", "[/x]", [], [[]], {}, {"": None}, 10**30)
    for _ in range(random_.randint(1, 2)):
        places = [p for p in spots(raw) if p]
        *parents, key = random_.choice(places)
        holder = raw
        for parent in parents:
            holder = holder[parent]
        match random_.randrange(4):
            case 0 | 1:
                holder[key] = copy.deepcopy(random_.choice(junk))
            case 2:
                del holder[key]
            case _ if isinstance(holder, dict):
                holder[str(random_.choice(junk))] = holder.pop(key)
            case _:
                holder.append(holder[key])
    return raw


def test_fuzzed_reports_are_reports_or_value_errors():
    """Whatever passes for a report can also be shown and written again."""
    random_ = random.Random(7)
    raw = raw_report(extra=(made_run(failed=True, chosen=False),), checks=("doubt",))
    raw["runs"] = [r for r in raw["runs"] if r["role"] in ("hardened", "scratch")]
    accepted, wrong = 0, {}
    for _ in range(2000):
        text = json.dumps(mutated(raw, random_))
        try:
            report = AttackReport.from_json(text)
            accepted += 1
            if accepted % 10 == 0:
                assert AttackReport.from_json(report.to_json()) == report
                report.table()
        except ValueError:
            continue
        except Exception as error:
            wrong.setdefault(f"{type(error).__name__}: {error}", text[:300])
    assert not wrong, "\n".join(wrong)
    assert 20 < accepted < 1900, "the fuzz should pass and fail"


def test_fuzzed_bytes_are_value_errors():
    random_ = random.Random(8)
    text = made_report().to_json()
    accepted = 0
    for _ in range(300):
        start, length = random_.randrange(len(text)), random_.randint(1, 40)
        broken = text[:start] + "".join(random_.choices('{}[]",:0129eE-+tfn\\u \n', k=3)) + text[start + length :]
        try:
            AttackReport.from_json(broken)
            accepted += 1
        except ValueError:
            continue
    assert accepted < 200


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
        "import resource, sys; from hf_selfdestruct.report import AttackReport\n"
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
    lines = [line for line in text.splitlines() if "full fine-tuning" in line]
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
