"""Weights that change while they are attacked end the attack: no run and no report mixes two models."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from ledger_attacks import Counting
from peft import LoraConfig
from suite_cases import suite_of
from transformers import AutoModelForSequenceClassification, BertConfig

from hf_selfdestruct.attacks import Target


class Swapping(Counting):
    """Does something to a folder in the middle of its first run on a role."""

    def __init__(self, role, act):
        super().__init__({"a": 0.5, "b": 0.6})
        self.role, self.act, self.done = role, act, False

    def run(self, trial):
        if trial.target.role == self.role and not self.done:
            self.done = True
            self.act()
        return super().run(trial)


@pytest.fixture
def places(folder, tmp_path):
    return {role: str(shutil.copytree(folder, tmp_path / role)) for role in ("base", "hardened", "sibling")}


def other_config(folder):
    BertConfig.from_pretrained(folder, hidden_act="relu").save_pretrained(folder)


def recorded(storage):
    """Number of runs on record, the raw input's aside."""
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as base:
        sql = "select count(*) from trials join studies using(study_id) where state in ('COMPLETE', 'FAIL')"
        (count,) = base.execute(f"{sql} and study_name not like '%/raw/%'").fetchone()
    return count


SWAPS = [
    ("base", "base", "base"),
    ("hardened", "hardened", "hardened"),
    ("hardened", "sibling", "hardened"),
    ("base", "hardened", "hardened"),  # which has not had its turn
    ("null", "hardened", "hardened"),  # which has had it, and is named in the report
    ("null", "base", "null"),
]
ACTS = {"weights": lambda save, f: save(f, seed=9), "configuration": lambda _, f: other_config(f)}
ACTS["gone"] = lambda _, f: shutil.rmtree(f)
CASES = [(*swap, "weights") for swap in SWAPS] + [(*SWAPS[1], how) for how in ("configuration", "gone")]


@pytest.mark.parametrize(("during", "changed", "told", "how"), CASES)
def test_a_model_swapped_in_the_middle_ends_the_attack(
    places, save_model, task_of, attacked, storage, during, changed, told, how
):
    attack = Swapping(during, lambda: ACTS[how](save_model, places[changed]))
    targets = [
        Target("base", places["base"]),
        Target("hardened", places["hardened"], sibling=places["sibling"]),
        Target("scratch", places["base"], random=True),
    ]
    with pytest.raises(ValueError, match=f"^the weights of '{told}' changed during the attack: .*folder.$"):
        attacked(suite_of(attack, examples=(10,)), targets, [task_of(rows=40)], storage=storage)
    mixed = told == during  # the run in which it was swapped
    assert attack.calls[-1][-1] == during or not mixed
    assert recorded(storage) == len(attack.calls) - mixed


@pytest.mark.parametrize("base", ["here", "elsewhere"])
def test_an_adapter_beside_the_weights_is_refused(folder, tmp_path, base):
    """It renames the layers that it changes; these would be random in what is attacked."""
    copied, other = (str(shutil.copytree(folder, tmp_path / name)) for name in ("copy", "other"))
    model = AutoModelForSequenceClassification.from_pretrained(copied if base == "here" else other)
    model.add_adapter(LoraConfig(r=2, target_modules=["query", "value"]))
    model.save_pretrained(copied)
    for target in (Target("hardened", copied), Target("scratch", copied, random=True)):
        with pytest.raises(ValueError, match=r"copy: it contains an adapter .*merge the adapter into the weights"):
            target.load(2, seed=0)
    with pytest.raises(ValueError, match="it contains an adapter"):
        Target("undefended", copied).published()


def test_weights_of_other_shapes_are_refused_on_one_line(folder, tmp_path):
    copied = str(shutil.copytree(folder, tmp_path / "copy"))
    BertConfig.from_pretrained(folder, intermediate_size=64).save_pretrained(copied)
    for load in (lambda t: t.load(2, seed=0), lambda t: t.published()):
        with pytest.raises(ValueError, match="copy: its weights do not fit its configuration") as found:
            load(Target("hardened", copied))
        assert "\n" not in str(found.value)
