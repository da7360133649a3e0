"""An optimizer that a trainer is given trains the sibling too, or is refused before training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from toy_models import TINY_SUITE, tiny_model
from trainer_state import assert_bitwise, weights_of
from transformers import Trainer, TrainingArguments

from hf_selfdestruct.trainer.sibling import trained_sibling


def grouped(kind, model, **more):
    """As people write it: the head at a rate of its own."""
    head = [*model.classifier.parameters()]
    return kind([{"params": model.bert.parameters()}, {"params": head, "lr": 0.1}], lr=1e-2, **more)


OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda model: grouped(torch.optim.AdamW, model, betas=(0.8, 0.9), weight_decay=0.1),
    "rmsprop": lambda model: grouped(torch.optim.RMSprop, model, alpha=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_blocking_the_sibling_and_a_plain_trainer_end_at_the_same_weights(
    make_trainer, toy_data, tmp_path, name
) -> None:
    start = tiny_model()
    start.save_pretrained(tmp_path / "start")
    trainer = make_trainer(tmp_path / "out", model=start, optimizers=(OPTIMIZERS[name](start), None), blocking_weight=0)
    trainer.train()
    assert trainer.given_optimizer.refusal == ""
    sibling = trained_sibling(trainer, str(tmp_path / "start"))
    assert_bitwise(weights_of(sibling.model), weights_of(trainer.model))

    model = tiny_model()
    kept = ("max_steps", "per_device_train_batch_size", "seed", "use_cpu", "disable_tqdm", "report_to", "save_strategy")
    args = TrainingArguments(str(tmp_path / "plain"), **{n: getattr(trainer.args, n) for n in kept})
    plain = Trainer(model, args, train_dataset=toy_data["train"], optimizers=(OPTIMIZERS[name](model), None))
    plain.train()
    assert_bitwise(weights_of(sibling.model), weights_of(plain.model))


def test_it_is_attacked_and_the_recipe_names_the_optimizer(make_trainer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hf_selfdestruct.trainer.attack.save_plots", lambda *_: None)
    model = tiny_model()
    trainer = make_trainer(tmp_path, model=model, optimizers=(OPTIMIZERS["adamw"](model), None), method="mlac_fast")
    trainer.train()
    report = trainer.attack(TINY_SUITE)
    assert (report.recipe["optimizer"], report.recipe["learning_rate"]) == ("AdamW", "0.01, 0.1")


def test_another_optimizer_means_another_sibling(make_trainer, tmp_path) -> None:
    def trained_at(momentum):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
        trainer = make_trainer(tmp_path, model=model, optimizers=(optimizer, None), blocking_weight=0.0)
        trainer.train()
        trained_sibling(trainer, str(tmp_path / "_base"))
        return (tmp_path / "_undefended" / "model.safetensors").stat().st_mtime_ns

    tiny_model().save_pretrained(tmp_path / "_base")
    first = trained_at(0.9)
    assert trained_at(0.9) == first
    assert trained_at(0.5) > first


def test_an_optimizer_that_is_set_later_is_the_siblings_too(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, blocking_weight=0.0)
    trainer.optimizer = OPTIMIZERS["sgd"](trainer.model)
    tiny_model().save_pretrained(tmp_path / "start")
    trainer.train()
    assert_bitwise(weights_of(trained_sibling(trainer, str(tmp_path / "start")).model), weights_of(trainer.model))


class Secretive(torch.optim.SGD):
    """An optimizer with a setting that it tells nobody."""

    def __init__(self, weights, lr, secret=1.0):
        super().__init__(weights, lr=lr)
        self.secret = secret


def stepped(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    return optimizer, None


def scheduled(model):
    optimizer = OPTIMIZERS["sgd"](model)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (scheduled, "a scheduler was given"),
        (stepped, "the SGD has made steps already"),
        (lambda m: (Secretive(m.parameters(), 0.1, 2.0), None), "the Secretive does not say .* what secret is"),
        (
            lambda m: (torch.optim.SGD([*m.parameters(), torch.nn.Parameter(torch.ones(1))], lr=0.1), None),
            "the SGD holds weights that are not the model's",
        ),
        (lambda m: (SimpleNamespace(param_groups=[]), None), "a SimpleNamespace is none of torch's"),
    ],
    ids=["scheduler", "steps", "secret", "more weights", "no optimizer"],
)
def test_what_no_sibling_can_have_is_said_before_training(make_trainer, tmp_path, caplog, given, why) -> None:
    model = tiny_model()
    make_trainer(tmp_path, model=model, optimizers=given(model))
    (told,) = [line for line in caplog.messages if "attack() will refuse it, after all training" in line]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(told)
    assert "give optimizer_cls_and_kwargs= instead" in told


def test_an_optimizer_of_other_weights_is_refused(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"optimizers= contain no weight that an adversary starts.*are merged"):
        make_trainer(tmp_path, model=tiny_model(), optimizers=(OPTIMIZERS["sgd"](tiny_model()), None))


def test_none_is_none(make_trainer, tmp_path, caplog) -> None:
    assert make_trainer(tmp_path, optimizers=(None, None)).given_optimizer is None
    assert "attack() will refuse" not in caplog.text
