"""A checkpoint is sealed when it is complete; a damaged or foreign one is named, and never trained from."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from faulty_training import PICTURES, UNDISTURBED, trainer_of
from safetensors.torch import load_file, save_file
from toy_models import tiny_model
from trainer_state import assert_bitwise, learned_of, moments_of, weights_of

from hf_selfdestruct.trainer import intact
from hf_selfdestruct.trainer.intact import LAST_FILE, SEAL, STATE_FILE
from hf_selfdestruct.trainer.recipe import settings_of


def trained(folder, fault=UNDISTURBED, *, resume=None, **arguments):
    trainer = trainer_of(folder, fault, "local")
    for name, value in arguments.items():
        setattr(trainer.args, name, value)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def cut(whole, tmp_path):
    """A copy of the run, whose last checkpoint is to be damaged."""
    return Path(shutil.copytree(whole.folder, tmp_path / "cut"))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path):
    path.write_bytes(b"")


def swapped(path):
    """Another model's weights, by the same names."""
    save_file({name: torch.ones_like(value) for name, value in load_file(path).items()}, path, {"format": "pt"})


def pickled(path):
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


def joined(name, content="{}"):
    return lambda path: path.with_name(name).write_text(content)


def unlisted(name):
    """As save_only_model=True writes it."""

    def act(path):
        (path.parent / name).unlink()
        seal = json.loads((path.parent / SEAL).read_text())
        del seal["files"][name]
        (path.parent / SEAL).write_text(json.dumps(seal))

    return act


WEIGHTS = "model.safetensors"
DAMAGE = {
    **{f"{name} flipped": (name, flipped, f"{name} is damaged") for name in (WEIGHTS, "optimizer.pt", STATE_FILE)},
    **{f"{name} cut off": (name, shortened, f"{name} has .* bytes, and had") for name in (WEIGHTS, LAST_FILE)},
    **{f"{name} empty": (name, emptied, f"{name} has 0 bytes") for name in (WEIGHTS, "rng_state.pth")},
    **{
        f"{name} missing": (name, Path.unlink, f"{name} is missing")
        for name in (WEIGHTS, STATE_FILE, LAST_FILE, "optimizer.pt", "scheduler.pt", "rng_state.pth")
    },
    "other weights": (WEIGHTS, swapped, f"{WEIGHTS} (is damaged|has .* bytes)"),
    "pickled weights": (WEIGHTS, pickled, "pytorch_model.bin was put there later"),
    "more weights": (WEIGHTS, joined("model-1.safetensors"), "model-1.safetensors was put there later"),
    "an adapter": (WEIGHTS, joined("adapter_config.json"), "adapter_config.json was put there later"),
    "only the model": (WEIGHTS, unlisted("optimizer.pt"), "the optimizer's state is missing"),
    "no seal": (SEAL, Path.unlink, f"no {SEAL}: it is incomplete"),
    "half a seal": (SEAL, shortened, f"{SEAL} is damaged"),
    "a seal of another kind": (SEAL, lambda path: path.write_text("[]"), f"{SEAL} is damaged .*expected an object"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(whole, cut, kind, caplog):
    name, act, told = DAMAGE[kind]
    act(cut / "checkpoint-6" / name)
    with pytest.raises(
        ValueError, match=f"(?s)checkpoint-6: .*{told}.*; the newest intact checkpoint is .*-4"
    ) as found:
        intact.check(cut / "checkpoint-6", whole.model)
    assert "\n" not in str(found.value)
    assert intact.last_complete(cut, whole.model) == str(cut / "checkpoint-4")
    assert "skipping" in caplog.text
    assert intact.begun(cut)


def test_training_goes_on_from_the_one_before_bitwise(whole, cut, caplog):
    flipped(cut / "checkpoint-6" / WEIGHTS)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*newest intact checkpoint is .*-4"):
        trained(cut, resume=str(cut / "checkpoint-6"))
    with caplog.at_level(logging.WARNING):
        again = trained(cut, resume=True)
    assert f"skipping {cut / 'checkpoint-6'}: {WEIGHTS} is damaged" in caplog.text
    for state in (weights_of, learned_of, moments_of):
        found, expected = ((state(t.model) if state is weights_of else state(t)) for t in (again, whole))
        assert_bitwise(found, expected)
    assert intact.fault(cut / "checkpoint-6", whole.model) == ""


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"kind": "gpt2"}, "another model"),
        ({"hidden": 24}, "has the shape"),
        ({"layers": 1}, "has the shape .* in it, and none in this run"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(whole, cut, other, told):
    """Whole and undamaged as it is."""
    model = tiny_model(other.pop("kind", "bert"), **other)
    with pytest.raises(ValueError, match=f"{told}.*no other checkpoint there is intact"):
        intact.check(cut / "checkpoint-6", model)
    with pytest.raises(ValueError, match="no complete checkpoint in"):
        intact.last_complete(cut, model)


def test_a_foreign_checkpoint_is_skipped(whole, cut, tmp_path):
    foreign = trained(tmp_path / "foreign", PICTURES).folder
    shutil.copytree(foreign / "checkpoint-6", cut / "checkpoint-8")
    assert intact.last_complete(cut, whole.model) == str(cut / "checkpoint-6")
    assert intact.last_complete(cut) == str(cut / "checkpoint-8"), "intact in itself"


def test_equal_tensors_in_another_architecture_are_another_model(whole, cut):
    model = tiny_model(dropout=0.1)
    model.config.hidden_act = "relu"
    with pytest.raises(ValueError, match=r"another model .*hidden_act gelu.* than this run .*hidden_act relu"):
        intact.check(cut / "checkpoint-6", model)


def test_older_checkpoints_are_deleted_only_when_the_new_one_is_sealed(tmp_path, monkeypatch):
    seal = intact.seal

    def killed(folder, model, recipe):
        if folder.name == "checkpoint-4":
            raise KeyboardInterrupt
        seal(folder, model, recipe)

    monkeypatch.setattr(intact, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, save_total_limit=1)
    assert intact.last_complete(tmp_path) == str(tmp_path / "checkpoint-2")
    monkeypatch.setattr(intact, "seal", seal)
    again = trained(tmp_path, resume=True, save_total_limit=1)
    assert again.args.save_total_limit == 1
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_another_number_of_processes_is_told_of(whole, cut, caplog):
    checkpoint = cut / "checkpoint-4"
    (checkpoint / SEAL).unlink()
    shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_1.pth")
    intact.seal(checkpoint, whole.model, settings_of(whole))
    trained(cut, resume=str(checkpoint))
    assert "was written by 2 processes, and 1 go on from it" in caplog.text
