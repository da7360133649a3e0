"""The simulated adversaries of one outer step."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from simulation_parts import on_whole_tables

from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.adversaries.optimizers import SGD, Adam, AdamW
from hf_selfdestruct.adversaries.ranges import Range, Schedule
from hf_selfdestruct.hardening.draw import Draw
from hf_selfdestruct.hardening.episode_builder import EpisodeBuilder
from hf_selfdestruct.losses.blocking import RepresentationProbe, UniformKL
from hf_selfdestruct.models.functional import call
from hf_selfdestruct.models.stateless import OWN


def scene_of(trainer, *key, number: int = 0) -> EpisodeBuilder:
    fine_tuning = trainer.objective.adversaries[number].draw(0, *key)
    return trainer.objective.simulator.builder(trainer.model, Draw(trainer.blocked_tasks[0], number, fine_tuning, key))


def drawn(trainer, count: int = 400):
    return [trainer.objective.simulator.draw(step) for step in range(count)]


def test_adversaries_are_drawn_by_weight(make_trainer, tmp_path) -> None:
    adversaries = [Adversary(steps=1), Adversary(steps=2, weight=3.0)]
    numbers = [draw.number for draw in drawn(make_trainer(tmp_path, adversaries=adversaries))]
    assert numbers.count(1) / len(numbers) == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("field", [{"trainable": ("all", "head", "last_1", "lora")}, {"prelude": (0, 2)}])
def test_every_field_can_be_a_set_or_a_range(make_trainer, tmp_path, field) -> None:
    adversary = Adversary(
        optimizer=(SGD(), AdamW()),
        learning_rate=Range(1e-5, 1e-2),
        steps=(1, 3),
        batch_size=Range(2, 5),
        examples=(None, 10),
        head=("learned", "random"),
        **field,
    )
    trainer = make_trainer(tmp_path, adversaries=[adversary], max_steps=12)
    fine_tunings = [draw.fine_tuning for draw in drawn(trainer)]
    for name, count in (
        ("optimizer", 2),
        ("steps", 2),
        ("batch_size", 4),
        ("head", 2),
        *((name, len(values)) for name, values in field.items()),
    ):
        assert len({str(getattr(fine_tuning, name)) for fine_tuning in fine_tunings}) == count, name
    trainer.objective.simulator._last = (-1, 0)
    trainer.train()
    seen = {sum("blocked_accuracy" in name for name in entry) for entry in trainer.state.log_history}
    assert {2, 4} <= seen  # K + 1 readings; preludes are not read


GROWING = {"first": 1, "last": 3, "every": 2}


def test_k_grows_by_schedule(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, inner_steps=None, adversary={"steps": GROWING}, max_steps=7)
    assert trainer.objective.adversaries[0].steps == Schedule(1, 3, 2)
    trainer.train()
    steps = [entry["inner_steps"] for entry in trainer.state.log_history if "inner_steps" in entry]
    assert steps == [1, 1, 2, 2, 3, 3, 3]


def test_few_examples_are_few(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path, adversaries=[Adversary(steps=30, batch_size=4, examples=7)])
    rows = {tuple(row) for batch in scene_of(trainer, 1).blocked for row in batch["input_ids"].tolist()}
    assert len(rows) == 7
    others = {tuple(row) for batch in scene_of(trainer, 2).blocked for row in batch["input_ids"].tolist()}
    assert len(others) == 7
    assert rows != others


@pytest.mark.parametrize("trainable", ["all", "head", "last_1", "lora"])
@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_only_used_rows_of_the_embeddings_exist_and_nothing_changes(
    make_trainer, tiny_model, tmp_path, trainable, mode
) -> None:
    """The same outer step with every row of the word embeddings, in float64."""
    found = {}
    for dense in (False, True):
        trainer = make_trainer(
            tmp_path,
            model=tiny_model(dropout=0.1).double(),
            meta_gradient=mode,
            adversaries=[Adversary(steps=3, batch_size=2, trainable=trainable, learning_rate=1e-2, head="random")],
            blocking_batch_size=3,
            blocking_losses=[UniformKL()],
        )
        if dense:
            on_whole_tables(trainer)
        scene = scene_of(trainer, 5)
        episode = in_double(scene.episode())
        word = "bert.embeddings.word_embeddings.weight"
        assert (len(episode.published[word]) == 60) == dense
        found[dense] = scene.whole(trainer.objective.simulator._way(episode).weights)
    for name, value in found[True].items():
        torch.testing.assert_close(found[False][name], value, rtol=1e-9, atol=1e-13)
    assert found[True]["bert.embeddings.word_embeddings.weight"].abs().max() > 1e-8


def in_double(episode):
    return replace(episode, own={n: w.double() for n, w in episode.own.items()})


def test_a_prelude_is_the_desired_task_with_its_own_head(make_trainer, tmp_path) -> None:
    trainer = make_trainer(
        tmp_path, adversaries=[Adversary(optimizer=SGD(), steps=2, prelude=3, learning_rate=0.1, batch_size=4)]
    )
    scene = scene_of(trainer, 1)
    episode = scene.episode()
    assert episode.steps == 5
    assert list(episode.shares) == [None] * 3 + [pytest.approx(1 / 3)] * 3
    weights = {**episode.published, **episode.own}
    # The live model on a training batch gives the same loss as the first benign step.
    data = trainer.train_dataset
    labels = {tuple(row): label for row, label in zip(data["input_ids"], data["labels"], strict=True)}
    batch = scene._prelude[0]
    assert [labels[tuple(row)] for row in batch["input_ids"].tolist()] == batch["labels"].tolist()
    expected = trainer.model.eval()(**batch).loss
    torch.testing.assert_close(episode.inner_losses[0](weights), expected)
    assert {"classifier.weight", OWN + "classifier.weight"} <= episode.moving
    found = trainer.objective.simulator.meta_gradient(trainer.model, scene._draw)
    assert set(found.losses) == {3, 4, 5}
    assert found.weights["classifier.weight"].abs().max() > 0  # the published head shapes the benign steps


def test_lora_adapts_adapters_and_the_meta_gradient_reaches_the_weights(make_trainer, tmp_path) -> None:
    lora = LoraConfig(r=2, target_modules=["query", "key", "value", "dense"])
    trainer = make_trainer(
        tmp_path, adversaries=[Adversary(steps=3, trainable=lora, learning_rate=1e-2)], meta_gradient="exact"
    )
    episode = scene_of(trainer, 1).episode()
    assert {n.removeprefix(OWN).split(".")[-3] for n in episode.own if "lora" in n} == {"lora_A", "lora_B"}
    assert episode.moving == frozenset(episode.own)
    found = trainer.objective.simulator._way(episode).weights
    assert not {n for n, g in found.items() if g.abs().max() == 0 and not n.endswith("key.bias")}
    first = next(n for n in episode.own if "lora_A" in n)
    assert not torch.equal(episode.own[first], scene_of(trainer, 2).episode().own[first])
    learned = trainer.objective.simulator.learned["blocked", 0]
    assert set(learned.head) == {"classifier.weight", "classifier.bias"}


def test_one_learned_head_serves_every_kind_of_training(make_trainer, tmp_path) -> None:
    adversary = Adversary(steps=1, trainable=("head", "lora"))  # all linear layers are adapted, the head too
    trainer = make_trainer(tmp_path, adversaries=[adversary], max_steps=8)
    learned = trainer.objective.simulator.learned["blocked", 0]
    for step in range(8):
        scene = scene_of(trainer, step)
        own = {n.removeprefix(OWN).replace(".base_layer.", "."): w for n, w in scene.episode().own.items()}
        assert torch.equal(own["classifier.weight"], learned.head["classifier.weight"])
    before = {n: value.clone() for n, value in learned.head.items()}
    trainer.train()
    assert not [n for n, value in learned.head.items() if torch.equal(value, before[n])]


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama"])
def test_lora_by_name_works_for_every_architecture(make_trainer, tiny_model, tmp_path, architecture) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model(architecture), adversary={"trainable": "lora"}, max_steps=1)
    assert sum("lora_A" in n for n in scene_of(trainer, 1).episode().own) > 4
    trainer.train()
    assert trainer.state.log_history[0]["meta_grad_norm"] > 1e-6


def test_layers_that_are_not_there_are_refused_before_training(make_trainer, tmp_path) -> None:
    with pytest.raises(ValueError, match="trainable='last_9': BertForSequenceClassification has 2 layers"):
        make_trainer(tmp_path, adversary={"trainable": "last_9"})


def test_a_collapse_needs_general_rows(make_trainer, toy_data, tmp_path) -> None:
    stream = toy_data["train"].to_iterable_dataset()
    with pytest.raises(ValueError, match=r"general rows: give keep_dataset=.*got IterableDataset"):
        make_trainer(tmp_path, method="ctrap", train_dataset=stream)


def test_adapters_on_word_embeddings_are_refused(make_trainer, tmp_path) -> None:
    lora = LoraConfig(target_modules=["word_embeddings"])
    with pytest.raises(ValueError, match="adapts the word embeddings"):
        make_trainer(tmp_path, adversaries=[Adversary(trainable=lora)])


def test_dropout_is_replayed(make_trainer, tiny_model, tmp_path) -> None:
    """With dropout in the inner loop, exact equals unrolled, so every step saw the same masks each time."""
    found = {}
    state = torch.random.get_rng_state()
    for mode, options in {
        "unrolled": {},
        "exact": {"method_options": {"trajectory": "recompute"}},
        "difference": {"meta_gradient": "exact", "method_options": {"hvp": "finite_difference"}},
        "none": {"meta_gradient": "exact"},
    }.items():
        arguments = {"meta_gradient": mode, **options}
        adversary = Adversary(
            optimizer=Adam(epsilon=1e-3),
            steps=3,
            batch_size=4,
            dropout=mode != "none",
            head="random",
            learning_rate=1e-2,
        )
        trainer = make_trainer(tmp_path, model=tiny_model(dropout=0.3).double(), adversaries=[adversary], **arguments)
        found[mode] = trainer.objective.simulator._way(in_double(scene_of(trainer, 1).episode())).weights
    torch.random.set_rng_state(state)

    def gap(one, other) -> float:
        apart = torch.stack([(found[one][n] - g).norm() for n, g in found[other].items()]).norm()
        return (apart / torch.stack([g.norm() for g in found[other].values()]).norm()).item()

    assert gap("exact", "unrolled") < 1e-10
    assert gap("difference", "unrolled") < 1e-5
    assert gap("none", "unrolled") > 1e-2


def test_dropout_leaves_the_global_generator_alone(make_trainer, tiny_model, tmp_path) -> None:
    trainer = make_trainer(tmp_path, model=tiny_model(dropout=0.3), adversary={"dropout": True})
    state = torch.random.get_rng_state()
    trainer.objective.simulator.meta_gradient(trainer.model, trainer.objective.simulator.draw(0))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("mode", ["exact", "unrolled", "first_order"])
def test_nothing_leaks_over_fifty_outer_steps(make_trainer, tmp_path, mode) -> None:
    """Weights bitwise as they were, and as many living tensors after 50 outer steps as after 5."""
    trainer = make_trainer(tmp_path, meta_gradient=mode)
    before = {n: p.detach().clone() for n, p in trainer.model.state_dict().items()}
    counts = []
    for step in range(50):
        trainer.objective.simulator.meta_gradient(trainer.model, trainer.objective.simulator.draw(step))
        if step in (4, 49):
            gc.collect()
            counts.append(sum(isinstance(o, torch.Tensor) for o in gc.get_objects()))
    assert counts[0] == counts[1]
    after = trainer.model.state_dict()
    assert not [n for n in before if not torch.equal(before[n], after[n])]
    assert not [n for n, p in trainer.model.named_parameters() if p.grad is not None]


def test_hidden_states_reach_the_losses_that_want_them(make_trainer, tmp_path) -> None:
    probe = make_trainer(tmp_path, blocking_losses=[RepresentationProbe(), UniformKL(weight=0.5)])
    probe.train()
    alone = make_trainer(tmp_path, blocking_losses=[UniformKL(weight=0.5)])
    alone.train()
    one, other = (t.state.log_history[0]["blocking_loss"] for t in (probe, alone))
    assert one != other


def test_batch_statistics_of_a_conv_net_stay(tiny_model) -> None:
    from toy_episodes import toy_episode, way

    episode = toy_episode("resnet")
    before = {n: b.clone() for n, b in episode.buffers.items()}
    assert any("running_mean" in n for n in before)
    way("exact")(episode)
    assert not [n for n, b in episode.buffers.items() if not torch.equal(b, before[n])]


def test_a_skeleton_is_called_with_what_it_is_given(make_trainer, tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    (module,) = {s.module for s in next(iter(trainer.objective.simulator._skeletons.values())).values()}
    assert {p.device.type for p in module.parameters()} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        call(module, {}, {"input_ids": torch.zeros(1, 4, dtype=torch.long)}).logits.item()
