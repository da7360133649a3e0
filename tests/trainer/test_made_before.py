"""What was made before the modules moved into folders is taken up: a checkpoint, a ledger of attacks, a report."""

import inspect
import sqlite3
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toy_models import TINY_SUITE, tiny_model, toy_rows, toy_task
from transformers import BertForSequenceClassification, default_data_collator

from hf_selfdestruct import AttackReport, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.attacks import DesiredData, Target
from hf_selfdestruct.attacks.suites.ledger import storage_at


@pytest.fixture
def before(tmp_path):
    with tarfile.open(Path(__file__).with_name("made_before.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "before"


def test_a_checkpoint_goes_on(before):
    wanted = load_file(before / "model.safetensors")
    arguments = SelfDestructTrainingArguments(
        str(before),
        method="mlac",
        inner_steps=2,
        blocking_batch_size=8,
        adversary={"batch_size": 4},
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        seed=7,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SelfDestructTrainer(
        tiny_model("bert"),
        arguments,
        train_dataset=toy_rows(48, seed=1, columns=("labels",)),
        eval_dataset=toy_rows(24, seed=2, columns=("labels",)),
        blocked_tasks=[toy_task()],
    )
    trainer.train(resume_from_checkpoint=str(before / "checkpoint-2"))
    for name, weight in trainer.model.state_dict().items():
        assert (weight - wanted[name]).abs().max() < 1e-5, name  # made on another processor, perhaps


def test_no_run_of_an_earlier_judge_is_taken_over(before):
    """The ledger is read, but its runs were made by other rules: every run is made beside them, once."""
    ledger = before / "_attacks.db"

    def trials():
        with sqlite3.connect(ledger) as database:
            return database.execute("select count(*) from trials").fetchone()[0]

    count, old = trials(), AttackReport.load(before / "selfdestruct" / "report.json")
    folder, sibling = str(before), str(before / "_undefended")
    targets = [
        Target("base", str(before / "_base"), padding=0),
        Target("undefended", sibling, padding=0),
        Target("hardened", folder, sibling=sibling, padding=0),
        Target("scratch", str(before / "_base"), random=True, padding=0),
    ]
    columns = list(inspect.signature(BertForSequenceClassification.forward).parameters)
    desired = DesiredData.of(
        toy_rows(48, seed=1, columns=("labels",)), toy_rows(24, seed=2, columns=("labels",)), columns
    )
    report = TINY_SUITE.run(
        targets,
        [toy_task()],
        columns=columns,
        collate=default_data_collator,
        desired=desired,
        storage=storage_at(ledger),
    )
    assert trials() >= count + len(report.runs) > count > 0
    made = {(r.attack, r.role, r.examples, r.seed) for r in report.runs}
    assert made >= {(r.attack, r.role, r.examples, r.seed) for r in old.runs}
