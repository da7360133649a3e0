"""The sibling is trained once, and again when anything that it is made of changes."""

import pytest
import torch
from datasets import Dataset
from toy_models import TINY_SUITE, toy_rows, toy_task
from transformers import TrainerCallback, default_data_collator

from hf_selfdestruct.attacks.metrics import Accuracy
from hf_selfdestruct.trainer.desired_quality import _quality as quality
from hf_selfdestruct.trainer.sibling import trained_sibling


@pytest.fixture
def written(make_trainer, tiny_model, tmp_path):
    """Hardens in one folder and makes the sibling there; when that was written."""

    def harden(*, model=None, **options) -> int:
        usual = {"meta_gradient": "first_order", "max_steps": 1, "blocked_tasks": [toy_task(rows=60)]}
        trainer = make_trainer(tmp_path, model=model or tiny_model(), **{**usual, **options})
        trainer.train()
        trained_sibling(trainer, str(tmp_path / "_base"))
        return (tmp_path / "_undefended" / "model.safetensors").stat().st_mtime_ns

    return harden


def other_start(tiny_model):
    torch.manual_seed(99)
    return tiny_model().__class__(tiny_model().config)


def other_dropout(tiny_model):
    model = tiny_model()
    model.config.hidden_dropout_prob += 0.1
    return model


def frozen_embeddings(tiny_model):
    model = tiny_model()
    model.base_model.embeddings.requires_grad_(False)
    return model


def other_loss(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


def other_collator(rows):
    return default_data_collator(rows)


def test_a_sibling_is_found_again_only_if_everything_is_the_same(written, tiny_model) -> None:
    times = [written(), written()]
    assert times[0] == times[1]
    changes = (
        {"model": frozen_embeddings(tiny_model)},
        {"train_dataset": toy_rows(60, seed=5)},
        {"weight_decay": 0.1},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}},
        {"dataloader_drop_last": True},
        {"compute_loss_func": other_loss},
        {"neftune_noise_alpha": 5.0},
        {"data_collator": other_collator},
        {"model": other_dropout(tiny_model)},
        {"model": other_start(tiny_model)},
        {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})},
    )
    times += [written(**change) for change in changes]
    assert len({*times}) == 1 + len(changes)


def test_a_sibling_has_the_hardened_models_optimizer(written) -> None:
    made = []

    class Counted(torch.optim.SGD):
        def __init__(self, *arguments, **named):
            made.append(named["lr"])
            super().__init__(*arguments, **named)

    written(optimizer_cls_and_kwargs=(Counted, {"lr": 0.1}))
    assert made == [0.1, 0.1]


class Stop(TrainerCallback):
    """A user's callback that ends training early."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


@pytest.mark.parametrize("stopped", [False, True])
def test_the_sibling_of_what_was_not_hardened_is_its_twin(make_trainer, tiny_model, tmp_path, stopped) -> None:
    """Weights that stay, the way rates fall and what metrics see are the sibling's too."""
    model = frozen_embeddings(tiny_model)
    model.save_pretrained(tmp_path / "start")
    trainer = make_trainer(
        tmp_path / "trained",
        model=model,
        blocking_weight=0.0,
        max_steps=6,
        callbacks=[Stop()] if stopped else [],
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        compute_metrics=lambda p: {"accuracy": float((p.predictions == p.label_ids).mean())},
    )
    trainer.train()
    sibling = trained_sibling(trainer, str(tmp_path / "start"))
    assert sibling.state.global_step == trainer.state.global_step == (3 if stopped else 6)
    assert sibling.evaluate()["eval_accuracy"] == trainer.evaluate()["eval_accuracy"]
    for (name, value), other in zip(model.named_parameters(), sibling.model.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_a_sibling_that_cannot_have_the_trainers_optimizer_is_told_of(make_trainer, tiny_model, tmp_path) -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    trainer = make_trainer(tmp_path, model=model, optimizers=(optimizer, scheduler))
    trainer.train()
    with pytest.raises(ValueError, match=r"\(a scheduler was given\).*kwargs= instead, or attack\(undefended=\)"):
        trainer.attack(TINY_SUITE)


def accuracy(told):
    return {"accuracy": float((told.predictions.argmax(-1) == told.label_ids).mean())}


def test_a_lost_desired_task_is_told_before_the_attacks_and_in_the_report(
    make_trainer, toy_task, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("hf_selfdestruct.attacks.doubts.LOST", -1.0)  # any task is lost
    trainer = make_trainer(tmp_path, blocked_tasks=[toy_task(rows=60)], compute_metrics=accuracy)
    trainer.train()
    (doubt,) = [check for check in trainer.attack(TINY_SUITE).checks if check.startswith("desired task: accuracy")]
    assert doubt in caplog.messages


def test_quality_on_several_sets_is_no_timing(make_trainer, toy_data, tmp_path) -> None:
    sets = {"a": toy_data["validation"], "b": toy_data["validation"]}
    found = quality(make_trainer(tmp_path, eval_dataset=sets, compute_metrics=accuracy), None)
    assert found.keys() == {"a_loss", "a_accuracy", "b_loss", "b_accuracy"}


def test_what_blocks_is_of_no_consequence_to_the_sibling(written) -> None:
    times = [written(), written(method_options={"max_blocking_grad_norm": 0.1}), written(blocking_weight=0.5)]
    assert len({*times}) == 1


@pytest.fixture(scope="module")
def trained(make_trainer, tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("trained"), max_steps=1, meta_gradient="first_order")
    trainer.train()
    return trainer


class Twice(Accuracy):
    """Two numbers, where a report has a place for one."""

    def _compute(self, predictions, references):
        return {"one": 1.0, "other": 2.0}


UNLABELLED = toy_rows(12, seed=3, columns=("labels",)).map(lambda row, i: {"labels": -(i == 3)}, with_indices=True)


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"suite": None}, TypeError, "suite must be the name of a shipped suite or an AttackSuite, got NoneType"),
        ({"undefended": "/nowhere"}, ValueError, "undefended='/nowhere': no such folder"),
        ({"base": "/nowhere"}, ValueError, "base='/nowhere': no such folder"),
        ({"metrics": {"mine": Twice()}}, ValueError, "metric 'mine' must return one number"),
        ({"desired_dataset": UNLABELLED}, ValueError, "desired_dataset.*row 3: label -1 .*: leave such rows out"),
        ({"kept_dataset": toy_rows(2, seed=3, columns=())}, ValueError, "at least 3 texts; got 2"),
        (
            {"kept_dataset": Dataset.from_dict({"text": ["a", "b", "c"]})},
            ValueError,
            r"kept_dataset: BertForSequenceClassification cannot read its rows, which have the columns text \(",
        ),
        ({"controls": [toy_task("again")]}, ValueError, "control task 'again' is blocked task 'blocked'"),
    ],
)
def test_what_cannot_be_attacked_with_is_refused_before_the_sibling_is_trained(trained, given, error, told) -> None:
    with pytest.raises(error, match=told):
        trained.attack(**{"suite": TINY_SUITE, **given})
    assert not (trained.folder / "_undefended").exists()
