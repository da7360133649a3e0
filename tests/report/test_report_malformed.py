"""Malformed reports are refused by name, whatever is wrong with them."""

import copy
import json
import math
import random

import pytest
from made_reports import made_report, made_run, raw_report

from hf_selfdestruct.report.report import MOST_BYTES, AttackReport


def changed(change):
    raw = raw_report()
    change(raw)
    return json.dumps(raw)


# Malformed input


def first_run(**values):
    return lambda raw: raw["runs"][0].update(values)


def first_score(split="test", **values):
    return lambda raw: raw["runs"][0][split].update(values)


def drop(where, name):
    return lambda raw: where(raw).pop(name)


def split(raw):
    return raw["tasks"]["gender"]["fingerprints"]["test"]


def before(raw):
    """The same report as version 2 wrote it."""
    desired = raw["desired"]
    raw.update(schema_version=2, desired={"dataset": desired["dataset"], **desired["quality"]})


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
    "desired a list": (lambda raw: raw["desired"]["quality"].update(hardened=[1]), "desired.*hardened"),
    "desired metric a text": (
        lambda raw: raw["desired"]["quality"].update(hardened={"accuracy": "high"}),
        "desired.*accuracy",
    ),
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
    "unknown fact of the suite": (lambda raw: raw["suite"].update(verdict="safe"), r"report\.suite.*verdict"),
    "unknown fact of a task": (lambda raw: raw["tasks"]["gender"].update(classes=2), r"tasks\['gender'\].*classes"),
    "unknown fact of a split": (lambda raw: split(raw).update(name="x"), r"fingerprints\['test'\].*name"),
    "split without hash": (lambda raw: split(raw).pop("sha256"), r"fingerprints\['test'\].*sha256"),
    "unknown rows": (lambda raw: raw["tasks"]["gender"]["rows"].update(attack=5), r"gender.*rows.*attack"),
    "fewer than no rows": (lambda raw: split(raw).update(rows=-1), "gender.*rows must be at least 0, got -1"),
    "fewer than no classes": (lambda raw: raw["tasks"]["gender"].update(num_labels=-2), "num_labels.*got -2"),
    "unknown fact of a model": (lambda raw: raw["models"]["base"].update(size=5), r"models\['base'\].*size"),
    "unknown fact of an attack": (lambda raw: raw["attacks"].update(x={"safe": True}), r"attacks\['x'\].*safe"),
    "note a number": (lambda raw: raw["suite"].update(note=3), r"report\.suite\.note"),
    "desired as version 2 had it": (lambda raw: raw["desired"].update(hardened={"accuracy": 0.5}), "desired.*hardened"),
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


def test_reports_of_the_version_before_are_read():
    assert AttackReport.from_json(changed(before)) == made_report()


@pytest.mark.parametrize(
    "name", [name for name in MALFORMED if not name.startswith(("desired", "other", "schema", "a l"))]
)
def test_reports_of_the_version_before_are_held_to_the_same(name):
    change, named = MALFORMED[name]
    with pytest.raises(ValueError, match=named):
        AttackReport.from_json(changed(lambda raw: (before(raw), change(raw))))


@pytest.mark.parametrize(
    "desired", [None, [], "high", {"dataset": 3}, {"dataset": "x", "hardened": [1]}, {"a": {"b": ""}}]
)
def test_desired_quality_of_the_version_before_is_checked(desired):
    with pytest.raises(ValueError, match="desired"):
        AttackReport.from_json(changed(lambda raw: raw.update(schema_version=2, desired=desired)))


@pytest.mark.parametrize("version", [2.0, True, None, [], "3", 4])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(ValueError, match="schema_version"):
        AttackReport.from_json(changed(lambda raw: (before(raw), raw.update(schema_version=version))))


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
    with pytest.raises(ValueError, match=f"the limit is {MOST_BYTES}"):
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
