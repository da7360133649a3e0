"""What stands in the ledger is not run again, and nothing else is taken for it."""

import dataclasses
import pickle
import shutil
from collections import Counter

import pytest
import torch
from conftest import COLUMNS, collate
from ledger_attacks import Counting
from suite_cases import on_models, suite_of
from transformers import BertConfig

from hf_selfdestruct.attacks import FullFineTuning, HeadOnly, Target
from hf_selfdestruct.attacks.methods.sibling import Merging
from hf_selfdestruct.attacks.suites import plan as job
from hf_selfdestruct.attacks.suites.plan import Job


def timeless(report):
    return dataclasses.replace(report, runs=tuple(dataclasses.replace(r, seconds=0.0) for r in report.runs))


def test_rerun_on_the_same_storage_runs_nothing(targets, task_of, attacked, storage):
    task = task_of(rows=40)
    reports = [attacked(suite_of(Counting({"a": 0.5, "b": 0.6})), targets, [task], storage=storage)]
    again = Counting({"a": 0.5, "b": 0.6})
    reports.append(attacked(suite_of(again), targets, [task], storage=storage))
    assert again.calls == []
    assert reports[0] == reports[1]


@pytest.mark.parametrize("dies_at", [1, 8, 16])
def test_killed_suite_goes_on_and_reports_the_same(targets, task_of, attacked, storage, dies_at):
    task, space = task_of(rows=40), {"a": 0.5, "b": 0.6}
    uninterrupted = attacked(suite_of(Counting(space)), targets, [task])
    with pytest.raises(KeyboardInterrupt):
        attacked(suite_of(Counting(space, dies_at=dies_at)), targets, [task], storage=storage)
    rest = Counting(space)
    assert timeless(attacked(suite_of(rest), targets, [task], storage=storage)) == timeless(uninterrupted)
    whole = [run for run in uninterrupted.runs if run.role != "raw"]
    assert len(rest.calls) == len(whole) - dies_at


class Dying(FullFineTuning):
    """Real fine-tuning that is killed at its third run."""

    def run(self, trial):
        """As :meth:`FullFineTuning.run`."""
        object.__setattr__(self, "runs", getattr(self, "runs", 0) + 1)
        if self.runs == 3:
            raise KeyboardInterrupt
        return super().run(trial)


def test_killed_real_attack_reports_the_same(targets, task_of, attacked, storage):
    """With dropout: what is run after the kill must not depend on what ran before in the process."""
    fields = {"learning_rates": (1e-3, 5e-3), "steps": (4,), "looks": 1}
    task = task_of(rows=60)
    torch.manual_seed(0)
    uninterrupted = attacked(suite_of(FullFineTuning(**fields), examples=(20,)), targets, [task])
    with pytest.raises(KeyboardInterrupt):
        attacked(suite_of(Dying(**fields), examples=(20,)), targets, [task], storage=storage)
    resumed = attacked(suite_of(FullFineTuning(**fields), examples=(20,)), targets, [task], storage=storage)
    assert timeless(resumed) == timeless(uninterrupted)


def test_changed_data_model_or_rules_are_run_anew(targets, task_of, attacked, storage, save_model, tmp_path):
    def calls(*, targets=targets, task=None, **fields):
        attack = Counting({"a": 0.5})
        attacked(suite_of(attack, examples=(10,), **fields), targets, [task or task_of(rows=40)], storage=storage)
        return Counter(call[-1] for call in attack.calls)

    everything = {"base": 2, "hardened": 2, "scratch": 2, "null": 2}
    assert calls() == everything
    assert calls() == {}
    assert calls(task=task_of("random", rows=40)) == everything
    assert calls(limit=5) == everything
    other = Target("hardened", save_model(tmp_path / "other", seed=5))
    assert calls(targets=[targets[0], other, targets[2]]) == {"hardened": 2}, "the references are shared"


def test_siblings_on_the_hub_are_told_apart_by_name(folder, task_of):
    """There is no file of theirs here to be hashed."""

    def study(sibling):
        job = Job(
            suite_of(Merging()), [Target("hardened", folder, sibling=sibling)], [task_of(rows=40)], COLUMNS, collate
        )
        return [search.study for search in job.searches(job.data()) if search.target.role == "hardened"]

    assert study("someone/one") == study("someone/one") != study("someone/other")


def test_another_process_names_the_same_searches_alike(targets, task_of):
    """Else each would run all of them: a kind of task that was pickled is not the object that it was."""
    tasks = [task_of(rows=40)]
    both = (tasks, pickle.loads(pickle.dumps(tasks)))
    jobs = [Job(suite_of(Counting({"a": 0.5})), targets, few, COLUMNS, collate) for few in both]
    here, there = ([search.study for search in one.searches(one.data())] for one in jobs)
    assert here == there
    assert len({*here}) == len(here) > 1


def test_scratch_of_another_architecture_is_run_anew(folder, task_of, attacked, storage, tmp_path):
    """The folder is the same, but what stands in it is another model now."""
    copied = shutil.copytree(folder, tmp_path / "model")

    def calls():
        attack = Counting({"a": 0.5})
        scratch = Target("scratch", str(copied), random=True)
        attacked(suite_of(attack, examples=(10,)), [scratch], [task_of(rows=40)], storage=storage)
        return len(attack.calls)

    assert (calls(), calls()) == (4, 0), "scratch, and scratch again"
    config = BertConfig.from_pretrained(copied)
    config.num_hidden_layers = 2
    config.save_pretrained(copied)
    assert calls() == 4


def test_a_report_too_large_to_be_read_is_refused_before_the_first_run(targets, task_of, attacked, monkeypatch):
    attack, task = Counting({"a": 0.5}), task_of(rows=40)
    report = attacked(suite_of(HeadOnly()), targets, [task])
    held = sum(len(run.predictions) + len(run.selected) for run in report.runs)
    monkeypatch.setattr(job, "MOST_BYTES", held)  # of which half is for predictions
    with pytest.raises(ValueError, match="too large to be read; use at most"):
        attacked(suite_of(attack), targets, [task])
    assert attack.calls == []
    monkeypatch.setattr(job, "MOST_BYTES", 5 * held)
    attacked(suite_of(HeadOnly()), targets, [task])


def test_equal_weights_in_another_architecture_are_run_anew(folder, task_of, attacked, storage, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "model")
    counts = []
    for change in ({}, {"hidden_act": "relu"}, {"hidden_dropout_prob": 0.9}):
        config = BertConfig.from_pretrained(folder)
        config.update(change)
        config.save_pretrained(copied)
        attack = Counting({"a": 0.5})
        suite = suite_of(attack, examples=(10,))
        attacked(suite, [Target("hardened", str(copied))], [task_of(rows=40)], storage=storage)
        counts.append(len(attack.calls))
    assert counts == [2, 2, 0], "dropout is no architecture"


@pytest.mark.parametrize("roles", [("hardened", "hardened"), ("hardened", "mine")])
def test_models_of_one_role_or_of_an_unknown_one_are_refused(folder, task_of, attacked, roles):
    with pytest.raises(ValueError, match=f"a different role of .*; got {', '.join(roles)}"):
        attacked(suite_of(HeadOnly()), [Target(role, folder) for role in roles], [task_of()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HeadOnly(strengths=(1e-7,)), HeadOnly(strengths=(1.0,))),
        (
            FullFineTuning(learning_rates=(5e-3,), steps=(12,), looks=1),
            FullFineTuning(learning_rates=(5e-3,), steps=(12,), looks=12),
        ),
    ],
    ids=["regularisation", "looks"],
)
def test_another_attack_of_the_same_name_is_not_taken_for_this_one(
    save_model, task_of, attacked, storage, tmp_path, one, other
):
    """What changes an attack's result changes its place on record."""
    targets = [Target("hardened", save_model(tmp_path / "model", dropout=0.0))]
    task = task_of("random", rows=100)
    before = attacked(suite_of(one, examples=(20,), seeds=3), targets, [task], storage=storage)
    alone = attacked(suite_of(other, examples=(20,), seeds=3), targets, [task])
    assert timeless(before).runs != timeless(alone).runs, "the two attacks should differ"
    after = attacked(suite_of(other, examples=(20,), seeds=3), targets, [task], storage=storage)
    assert timeless(after) == timeless(alone)


def test_two_suites_share_a_storage(targets, task_of, attacked, storage):
    """As `harden --suite smoke` and then `--suite default` in the same folder: other rates, the same budget."""
    task = task_of(rows=40)
    smoke = suite_of(FullFineTuning(learning_rates=(1e-4, 1e-3), steps=(2,), looks=1), examples=(None,))
    wider = suite_of(FullFineTuning(learning_rates=(1e-4, 1e-3, 1e-2), steps=(2,), looks=1), examples=(None,))
    attacked(smoke, targets[:1], [task], storage=storage)
    found = attacked(wider, targets[:1], [task], storage=storage)
    assert len(on_models(found)) == 4
