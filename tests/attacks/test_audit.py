"""A report is held against its suite's plan: an honest one passes, and none from which something was taken."""

import json
import re

import numpy as np
import pytest
from conftest import COLUMNS, collate, dataset, save_model, task_of

from hf_selfdestruct.attacks import AttackSuite, DesiredData, Entry, FullFineTuning, HeadOnly, Target, Tuning
from hf_selfdestruct.attacks.methods.sibling import Merging
from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.report.packing import packed, packed_labels, rounded, unpacked_labels
from hf_selfdestruct.report.report import AttackReport

QUICK = {"steps": (4,), "looks": 2}
SUITE = AttackSuite(
    "toy",
    1,
    (
        Entry(HeadOnly(strengths=(0.1, 1.0)), (20, None)),
        Entry(FullFineTuning(learning_rates=(1e-3, 1e-2, 3e-3, 1e-4, 3e-2), prune=True, **QUICK), (None,)),
        Entry(Tuning("healed first", learning_rates=(1e-3,), prelude=2, **QUICK), (None,)),
        Entry(Merging(amounts=(0.5,), steps=4), (None,)),
    ),
    seeds=2,
    few_seeds=2,
    more=FullFineTuning("more data", learning_rates=(1e-3,), **QUICK),
)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The JSON of an honest report with everything in it."""
    home = tmp_path_factory.mktemp("models")
    roles = ("base", "undefended", "hardened")
    folders = {role: save_model(home / role, seed=seed) for seed, role in enumerate(roles)}
    targets = [Target(role, folders[role], sibling=folders["undefended"] * (role == "hardened")) for role in roles]
    desired = DesiredData.of(dataset(40, seed=8, labels="random"), dataset(40, seed=9, labels="random"), COLUMNS)
    report = SUITE.run(
        [*targets, Target("scratch", folders["base"], random=True)],
        [task_of(rows=60)],
        columns=COLUMNS,
        collate=collate,
        controls=[task_of(rows=50, name="control")],
        desired=desired,
        progress=False,
    )
    return report.to_json()


@pytest.fixture(autouse=True)
def shipped(monkeypatch):
    monkeypatch.setitem(SUITES, "toy", SUITE)


def group(raw, *, chosen=None, **wanted):
    """Runs with these values: those of the head on the hardened model, unless something else is wanted."""
    wanted = {"task": "toy", "attack": "head only", "role": "hardened", "examples": 42, **wanted}
    found = [run for run in raw["runs"] if all(run[name] == value for name, value in wanted.items())]
    found = [run for run in found if chosen is None or run["chosen"] is chosen]
    assert found
    return found


def without(**wanted):
    def cheat(raw):
        gone = group(raw, **wanted)
        raw["runs"] = [run for run in raw["runs"] if run not in gone]

    return cheat


def changed(change, **wanted):
    def cheat(raw):
        for run in group(raw, **wanted):
            run.update(change)

    return cheat


def failed(**wanted):
    return changed(
        {"status": "failed", "selection": None, "test": None, "predictions": "", "selected": "",
         "steps": 0, "curve": [], "error": "FloatingPointError: loss is nan at step 3"},
        **wanted,
    )  # fmt: skip


def worse_chosen(raw):
    """The settings that did worse stand as the chosen ones."""
    good, bad = (group(raw, chosen=chosen, seed=0)[0] for chosen in (True, False))
    good["selection"]["accuracy"], bad["selection"]["accuracy"] = 0.9, 0.8
    good["chosen"], bad["chosen"], bad["predictions"], good["selected"] = False, True, good["predictions"], ""
    bad["test"], bad["optimism"], good["optimism"] = good["test"], 0.0, 0.0
    for run in group(raw, seed=1):
        run["settings"] = bad["settings"]


def invented(raw):
    """Scores without the predictions that they should follow from."""
    for run in group(raw, chosen=True):
        run["test"]["accuracy"], run["predictions"] = 0.5, ""


def invented_choice(raw):
    """Scores on the selection split without the predictions that they should follow from."""
    for run in group(raw, chosen=True):
        run["selection"]["loss"], run["selected"] = 0.1, ""


def flattered_choice(raw):
    """A loss on the selection split that does not follow from the predictions of its rows."""
    for run in group(raw, chosen=True):
        run["selection"]["loss"] = 0.1


def other_labels(raw):
    """The commonest label's rate raised, so that less seems to be learnt."""
    raw["tasks"]["toy"]["majority"] = 0.9


def inflated(raw):
    """Scratch said to be better at everything but accuracy, which its predictions give."""
    for run in group(raw, role="scratch", chosen=True):
        run["test"].update(auc=0.99, loss=0.01)


def few_rows(raw):
    """An attacker said to have had few rows, so that the larger budgets fall away."""
    raw["tasks"]["toy"]["rows"]["train"] = 20
    raw["runs"] = [run for run in raw["runs"] if run["task"] != "toy" or run["examples"] == 20]


def ahead(raw):
    """Settings given up although they were ahead."""
    for run in group(raw, attack="full fine-tuning", status="pruned"):
        run["selection"]["accuracy"] = 1.0
    for run in group(raw, attack="full fine-tuning", status="ok"):
        run["rung"] = 0.4


def no_rungs(raw):
    """Settings given up for a reason that nobody sees."""
    for run in group(raw, attack="full fine-tuning", status="ok"):
        run.pop("rung", None)


def no_desired(raw):
    raw["suite"]["desired"] = False
    raw["runs"] = [run for run in raw["runs"] if run["attack"] != "healed first"]
    raw["attacks"].pop("healed first")


def no_undefended(raw):
    raw["models"].pop("undefended")
    raw["runs"] = [r for r in raw["runs"] if r["role"] != "undefended" and r["attack"] != "merging with the sibling"]
    raw["attacks"].pop("merging with the sibling")


def same_weights(one, other):
    return lambda raw: raw["models"][one].update(sha256=raw["models"][other]["sha256"])


FINE = {"attack": "full fine-tuning"}
CHEATS = {
    "an attack left out": (without(), "0 runs at seed 0; the suite tries each of 2"),
    "settings left out": (without(chosen=False), "1 runs at seed 0; the suite tries each of 2"),
    "settings that were given up left out": (without(**FINE, status="pruned"), "the suite tries each of 5"),
    "a budget left out": (without(examples=20), "with 20 examples: 0 runs"),
    "seeds left out": (without(seed=1), r"seeds \[\] of the chosen settings; the suite has \[1\]"),
    "scratch again left out": (without(role="null", attack="head only", examples=20), "on null with 20 examples: 0"),
    "the raw input left out": (without(role="raw", attack="raw input", examples=20), "raw input on raw"),
    "scratch with more left out": (without(role="more", attack="more data", examples=102), "more data on more"),
    "the sibling's attack left out": (without(attack="merging with the sibling"), "merging with the sibling on hard"),
    "the control left out": (without(task="control", attack="healed first", examples=35), "control: healed first"),
    "an attack marked failed": (failed(), "the chosen settings failed"),
    "chosen runs marked failed": (failed(chosen=True, seed=0), "chosen are not the settings that did best"),
    "a seed marked failed": (failed(seed=1), "the chosen settings failed"),
    "an attack not chosen": (changed({"chosen": False, "optimism": 0.0}), "chosen are not the settings"),
    "another one chosen": (worse_chosen, "chosen are not the settings that did best"),
    "two chosen": (changed({"chosen": True}), "chosen are not the settings"),
    "declared outside": (lambda raw: raw["attacks"]["head only"].update(outside=True), "stand outside"),
    "assumes more": (lambda raw: raw["attacks"]["head only"].update(assumes="a key"), "names and assumptions"),
    "settings outside the space": (changed({"settings": {"strength": 1e-9}}), "settings outside the space"),
    "a run twice": (lambda raw: raw["runs"].append(raw["runs"][0]), "the suite tries each of 2 settings once"),
    "an attack of one's own": (changed({"attack": "head alone"}), "head alone on hardened .* not in the suite's plan"),
    "ahead and given up": (ahead, "settings were given up that were ahead of those kept"),
    "kept for no stated reason": (no_rungs, "no score of the short runs by which settings were kept"),
    "none given up": (changed({"status": "ok", "test": {"accuracy": 0.5, "auc": 0.5, "balanced_accuracy": 0.5,
                               "loss": 0.7}}, **FINE, status="pruned"), "5 settings run to the end"),
    "too few steps": (changed({"steps": 1}, **FINE, status="ok"), "numbers of steps that are not those"),
    "optimism": (changed({"optimism": 0.9}, chosen=True, seed=0), "more optimism than chance gives"),
    "doubts removed": (lambda raw: raw.update(checks=[]), "checks: the report states 0 doubts"),
    "predictions dropped": (invented, "chosen, and without predictions"),
    "selection predictions dropped": (invented_choice, "chosen, and without predictions"),
    "selection flattered": (flattered_choice, "loss on selection does not follow from its predictions"),
    "no selection labels": (
        lambda raw: (raw["tasks"]["toy"].update(selection=""), [r.update(selected="") for r in raw["runs"]]),
        "0 selection labels on record",
    ),
    "other majority": (other_labels, "the commonest label's rate does not follow"),
    "no labels": (lambda raw: (raw["tasks"]["toy"].update(labels=""), [r.update(predictions="") for r in raw["runs"]]),
                  "0 test labels on record"),
    "scratch inflated": (inflated, "on scratch .* auc on test does not follow from its predictions"),
    "few rows": (few_rows, "are not what its splits"),
    "no desired task": (no_desired, "no desired task was at hand"),
    "no undefended model": (no_undefended, "models: undefended not attacked"),
    "a model left out": (lambda raw: raw["models"].pop("base"), "models: base not attacked"),
    "base as hardened": (same_weights("hardened", "base"), "hardened and base are the same"),
    "undefended as hardened": (same_weights("hardened", "undefended"), "hardened and undefended are the same"),
    "base as undefended": (same_weights("undefended", "base"), "undefended and base are the same"),
    "no hash": (lambda raw: raw["models"]["hardened"].update(sha256=""), "no hash of the hardened weights"),
    "all a control": (lambda raw: raw["tasks"]["toy"].update(control=True), "none is blocked"),
    "another suite": (lambda raw: raw["suite"].update(name="mine"), "its plan is unknown, and nothing can be conclu"),
    "another version": (lambda raw: raw["suite"].update(version=9), "'toy' version 9 is not shipped"),
    "another record": (lambda raw: raw["suite"].pop("record"), "holds record None, and this version checks record 2"),
    "fewer seeds stated": (lambda raw: raw["suite"].update(seeds=1), "not the facts that this suite states"),
    "a note of one's own": (lambda raw: raw["suite"].update(note="safe"), "not the facts that this suite states"),
}  # fmt: skip


def test_an_honest_report_has_no_problems(honest):
    report = AttackReport.from_json(honest)
    assert {run.role for run in report.runs} == {"base", "undefended", "hardened", "scratch", "null", "more", "raw"}
    assert any(run.status == "pruned" for run in report.runs)
    assert plan_problems(report) == []
    raw = json.loads(honest)
    raw["checks"].reverse()
    assert plan_problems(AttackReport.from_json(json.dumps(raw))) == [], "tasks are sorted by name in JSON"


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_found(honest, name):
    cheat, named = CHEATS[name]
    raw = json.loads(honest)
    cheat(raw)
    found = plan_problems(AttackReport.from_json(json.dumps(raw)))
    assert any(re.search(named, line) for line in found), found
    assert all(len(line.splitlines()) == 1 for line in found)


def test_an_attack_that_fits_no_model_is_no_cheat(honest):
    """Another architecture may have no layers to reset; that it fails on one model alone would be a cheat."""
    raw = json.loads(honest)
    for role in ("base", "undefended", "hardened", "scratch"):
        failed(**FINE, role=role)(raw)
        changed({"error": "NotApplicable: no layers"}, **FINE, role=role)(raw)
        for run in group(raw, **FINE, role=role):
            if run["seed"] == 0:
                run["chosen"] = run["settings"] == group(raw, **FINE, role=role, seed=1)[0]["settings"]
    found = plan_problems(AttackReport.from_json(json.dumps(raw)))
    assert not any("failed" in line for line in found), found
    group(raw, **FINE)[0]["error"] = "FloatingPointError"
    found = plan_problems(AttackReport.from_json(json.dumps(raw)))
    assert any("full fine-tuning on hardened with 42 examples: the chosen settings failed" in line for line in found)


def test_predictions_invented_with_their_scores_are_for_the_rerun(honest):
    """What the plan cannot show, and its docstring says so."""
    raw = json.loads(honest)
    labels = unpacked_labels(raw["tasks"]["control"]["labels"])
    made = np.full((len(labels), 2), 0.5) + np.eye(2)[labels] * 0.1
    made = rounded(made / made.sum(axis=1, keepdims=True))
    known = scores(labels, made)
    for run in group(raw, task="control", attack="healed first", examples=35, chosen=True):
        run["predictions"] = packed(made)
        for name in ("accuracy", "auc", "balanced_accuracy", "loss"):
            run["test"][name] = getattr(known, name)
    assert packed_labels(labels) == raw["tasks"]["control"]["labels"]
    assert plan_problems(AttackReport.from_json(json.dumps(raw))) == []
