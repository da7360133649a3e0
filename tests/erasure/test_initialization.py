"""Before the first step: what is erased is gone, what is drawn anew is noise, and everything else stays."""

from __future__ import annotations

import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from toy_models import TINY_SUITE
from transformers import default_data_collator

from hf_selfdestruct.erasure.initial_weights import Forms, check_initialization, embeddings_of, reduced, without
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer


@pytest.fixture
def table() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4000, 8, generator=generator) * torch.linspace(0.5, 3, 8) + torch.linspace(-1, 1, 8)


def unit(*at: int) -> torch.Tensor:
    return torch.eye(8, dtype=torch.float64)[:, list(at)]


def test_what_is_kept_is_kept_and_nothing_else_and_the_size_stays(table) -> None:
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    kept, others = turn[:, :2], turn[:, 2:]
    before, after = (t.double() - t.double().mean(0) for t in (table, reduced(table, kept)))
    assert (after @ others).abs().max() < 1e-5
    torch.testing.assert_close(after.square().sum(), before.square().sum(), rtol=1e-5, atol=0)
    stretched = (after @ kept).norm() / (before @ kept).norm()
    torch.testing.assert_close(after @ kept, stretched * before @ kept, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reduced(table, turn), table)


def test_what_is_erased_is_the_mean_and_the_rest_stays(table) -> None:
    erased = without(table, unit(1, 4))
    torch.testing.assert_close(erased[:, [1, 4]], table.mean(0)[[1, 4]].expand(4000, 2), atol=1e-4, rtol=0)
    rest = [0, 2, 3, 5, 6, 7]
    torch.testing.assert_close(erased[:, rest], table[:, rest])


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_embeddings_are_found_by_what_they_are(tiny_model, architecture: str) -> None:
    model = tiny_model(architecture)
    name, values = embeddings_of(model)
    assert model.get_parameter(name) is model.get_input_embeddings().weight
    assert torch.equal(values, model.get_parameter(name))
    assert not values.requires_grad


def pooled(model, rows) -> torch.Tensor:
    table = model.get_input_embeddings().weight.detach()
    ids, mask = torch.tensor(rows["input_ids"][:]), torch.tensor(rows["attention_mask"][:])
    return (table[ids] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("forms", [{"erase_directions": 4}, {"keep_directions": 3}])
def test_hardening_starts_there_and_its_references_do_not(make_trainer, tiny_model, toy_task, tmp_path, forms) -> None:
    model, task = tiny_model(), toy_task(rows=200)
    before = model.get_input_embeddings().weight.detach().clone()
    trainer = make_trainer(
        tmp_path, model=model, blocked_tasks=[task], max_steps=1, learning_rate=1e-9, method_options=forms
    )

    def score(labels) -> float:
        rows = pooled(model, task.train)
        return LogisticRegression(C=100, max_iter=3000).fit(rows, labels).score(rows, labels)

    blocked = score(task.labels("train"))
    trainer.train()
    after = model.get_input_embeddings().weight.detach()
    assert not torch.allclose(after, before, atol=1e-3)
    if "keep_directions" in forms:
        assert torch.linalg.matrix_rank(after - after.mean(0), rtol=1e-4) <= forms["keep_directions"]
    if "erase_directions" in forms:
        assert blocked > 0.6
        assert score(task.labels("train")) < blocked - 0.05
    report = trainer.attack(TINY_SUITE)
    assert {n: report.recipe[n] for n in forms} == forms
    for reference in ("_base", "_undefended"):
        kept = type(model).from_pretrained(tmp_path / reference).get_input_embeddings().weight.detach()
        torch.testing.assert_close(kept, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("place", ["processing_class", "data_collator", ""])
def test_words_of_the_tokenizer_stay_as_they_are(make_trainer, tiny_model, tmp_path, place, caplog) -> None:
    model = tiny_model()
    before = model.get_input_embeddings().weight.detach().clone()
    tokenizer = SimpleNamespace(all_special_ids=[2, 5, len(before)])  # the last one has no row yet

    collate = partial(default_data_collator, return_tensors="pt")
    if place == "data_collator":
        collate.tokenizer = tokenizer
    known = {"processing_class": tokenizer} if place == "processing_class" else {}
    trainer = make_trainer(tmp_path, model=model, method_options={"keep_directions": 3}, data_collator=collate, **known)
    trainer.objective.prepare(trainer.model)
    same = (trainer.model.get_input_embeddings().weight == before).all(dim=1)
    assert same.nonzero().flatten().tolist() == ([2, 5] if place else [])
    assert ("Pass processing_class=" in caplog.text) == (not place)


@pytest.mark.parametrize("precision", [{}, {"bf16_full_eval": True}])
def test_the_model_is_in_its_place_before_its_weights_are_looked_at(
    make_trainer, tiny_model, tmp_path, precision, monkeypatch
) -> None:
    """Trainer leaves the model where it is until training, if it is to be evaluated in half precision."""
    done = []
    monkeypatch.setattr(SelfDestructTrainer, "_move_model_to_device", lambda *_: done.append("moved"))
    monkeypatch.setattr(
        "hf_selfdestruct.hardening.objective.initial_weights", lambda *_, **__: done.append("looked at") or {}
    )
    make_trainer(tmp_path, model=tiny_model(), **precision).train()
    assert done[:2] == ["moved", "looked at"]


def test_resuming_does_not_start_over(make_trainer, tiny_model, tmp_path) -> None:
    def trained(steps: int, **resume):
        trainer = make_trainer(
            tmp_path,
            model=tiny_model(),
            method_options={"keep_directions": 3},
            max_steps=steps,
            save_steps=2,
            save_strategy="steps",
        )
        trainer.train(**resume)
        return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}

    whole = trained(4)
    shutil.rmtree(tmp_path / "checkpoint-4")
    again = trained(4, resume_from_checkpoint=True)
    assert all(torch.equal(whole[n], again[n]) for n in whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method_options": {"merge_groups": 3}}, "merge_groups needs merge_words"),
        (
            {"method_options": {"keep_directions": 16}},
            "keep_directions=16 has no effect on embeddings with 16 dimensions",
        ),
        ({"method_options": {"erase_directions": -1}}, "erase_directions must be a whole number of at least 0; got -1"),
    ],
)
def test_wrong_arguments(make_trainer, tmp_path, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **arguments)


@pytest.mark.parametrize("labels", [None, [[0, 1], [1, 0]], [0.5, 1.5], [1, 1]])
def test_directions_of_the_desired_task_need_one_integer_label_per_row(tiny_model, labels) -> None:
    rows = {"input_ids": [[1, 2], [3, 4]]} | ({} if labels is None else {"labels": labels})
    with pytest.raises(ValueError, match="map-style train_dataset with one integer label per row"):
        check_initialization(tiny_model(), Forms(keep_directions=3), Dataset.from_dict(rows))
    check_initialization(tiny_model(), Forms(keep_directions=3), Dataset.from_dict({**rows, "labels": [0, 1]}))


def test_a_model_without_words_is_told_so_before_training(tiny_model) -> None:
    with pytest.raises(ValueError, match="no table of input embeddings to edit"):
        embeddings_of(tiny_model("resnet"))


def test_merged_words_stay_one_through_training_and_resuming(make_trainer, tiny_model, toy_task, tmp_path) -> None:
    def trained(**resume):
        saving = {"save_steps": 2, "save_strategy": "steps"}
        made = make_trainer(
            tmp_path,
            model=tiny_model(),
            blocked_tasks=[toy_task(rows=200)],
            method_options={"merge_words": 1.5},
            max_steps=4,
            **saving,
        )
        made.train(**resume)
        return made.model.get_input_embeddings().weight.detach().clone()

    before = tiny_model().get_input_embeddings().weight.detach()
    whole = trained()
    sizes = [len(torch.unique(table, dim=0)) for table in (before, whole)]
    assert sizes[1] < sizes[0]
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert torch.equal(whole, trained(resume_from_checkpoint=True))


def test_merged_words_end_in_as_few_groups_as_asked_for(make_trainer, tiny_model, toy_task, tmp_path) -> None:
    def groups(most: int) -> list[int]:
        made = make_trainer(
            tmp_path / str(most),
            model=tiny_model(),
            blocked_tasks=[toy_task(rows=200)],
            method_options={"merge_words": 1.5, "merge_groups": most},
            max_steps=1,
        )
        made.train()
        found = torch.unique(made.model.get_input_embeddings().weight.detach(), dim=0, return_counts=True)[1]
        return [size for size in found.tolist() if size > 1]

    free, one = groups(0), groups(1)
    assert len(free) > 1
    assert one == [sum(free)]


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_noise_mixes_every_weight_of_the_trunk_and_no_other(make_trainer, tiny_model, tmp_path, share) -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = make_trainer(tmp_path, model=model, method_options={"noise": share}, max_steps=1)
    trainer.objective.prepare(model)
    other = make_trainer(tmp_path, model=tiny_model(), method_options={"noise": share}, max_steps=1)
    other.objective.prepare(other.model)
    for name, value in model.named_parameters():
        if name.startswith("classifier"):
            assert torch.equal(value, before[name])
            continue
        random = (value - (1 - share) * before[name]) / share
        assert torch.equal(value, other.model.get_parameter(name)), "the seed alone decides"
        if value.dim() == 2:  # as the architecture draws them: normal, 0.02
            assert 0.015 < random.std() < 0.025, name
            assert abs(torch.corrcoef(torch.stack([random.flatten(), before[name].flatten()]))[0, 1]) < 0.2, name
        else:
            assert torch.allclose(random, random[0].expand_as(random), atol=1e-5), name


def test_noise_is_a_share(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1; got 1\.5"):
        make_trainer(tmp_path, method_options={"noise": 1.5})
