"""A folder never holds evidence beside weights that are not its own, and one run at a time works in it."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch
from toy_models import TINY_SUITE
from transformers import AutoModel, TrainerCallback

from hf_selfdestruct.attacks import AttackSuite
from hf_selfdestruct.publish.earlier import has_evidence
from hf_selfdestruct.publish.manifest import MANIFEST, SIGNATURE, problems

HOLD = """
import sys, time
from hf_selfdestruct.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


class Stop(TrainerCallback):
    """As Ctrl-C does."""

    def on_step_end(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


@pytest.fixture
def killed(monkeypatch):
    """Attacks, and is stopped when the first attack begins."""

    def stopped(*_, **__):
        raise KeyboardInterrupt

    def attack(trainer):
        monkeypatch.setattr(AttackSuite, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            trainer.attack(TINY_SUITE)
        monkeypatch.undo()

    return attack


def test_evidence_is_set_aside_before_other_weights_come(make_trainer, toy_task, tmp_path, killed, caplog):
    task = toy_task(rows=60)
    trainer = make_trainer(tmp_path, blocked_tasks=[task])
    trainer.train()
    trainer.attack(TINY_SUITE)
    (tmp_path / SIGNATURE).write_text("{}")

    killed(trainer)
    assert problems(tmp_path) == [], "the weights are the same: their evidence holds until there is a new one"
    assert (tmp_path / SIGNATURE).exists()
    trainer.attack(TINY_SUITE)
    assert problems(tmp_path) == []
    assert not (tmp_path / SIGNATURE).exists(), "it signed another manifest"
    assert not (tmp_path / "_earlier").exists()
    assert not (tmp_path / "_saved").exists()

    with torch.no_grad():
        trainer.model.classifier.weight.add_(1.0)
    killed(trainer)
    assert not has_evidence(tmp_path)
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "_earlier" / "1" / MANIFEST).exists()
    assert (tmp_path / "_earlier" / "1" / "README.md").exists()
    assert f"moved to {tmp_path / '_earlier' / '1'}" in caplog.text

    trainer.attack(TINY_SUITE)
    assert problems(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, blocked_tasks=[task], seed=3, callbacks=[Stop()]).train()
    assert not has_evidence(tmp_path)
    assert (tmp_path / "_earlier" / "2" / MANIFEST).exists()
    assert (tmp_path / "model.safetensors").exists()


@contextlib.contextmanager
def held(folder):
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "held"
        yield
    finally:
        process.kill()
        process.wait()


def test_a_second_run_in_one_folder_is_refused(make_trainer, tmp_path):
    folder = tmp_path / "run"
    trainer = make_trainer(folder)
    with held(folder):
        before = {*folder.rglob("*")}
        for work in (trainer.train, lambda: trainer.attack(TINY_SUITE)):
            with pytest.raises(ValueError, match=r"another process is using .*run: wait for it to end"):
                work()
        assert {*folder.rglob("*")} == before
    trainer.train()


def test_a_second_harden_in_one_folder_is_refused(project, refused):
    """A killed one would leave its recipe beside the other's weights."""
    folder = project.parent / "twice"
    with held(folder):
        assert "another process is using" in refused("harden", project, "--output_dir", folder)
    assert [path.name for path in folder.iterdir()] in ([], ["_lock"])


def test_a_sibling_without_its_head_is_refused(make_trainer, toy_task, tmp_path):
    trainer = make_trainer(tmp_path / "run", blocked_tasks=[toy_task(rows=60)])
    trainer.train()
    AutoModel.from_pretrained(tmp_path / "run" / "_base").save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare: classifier\.bias is missing, and would be random; name a Bert"):
        trainer.attack(TINY_SUITE, undefended=str(tmp_path / "bare"))
