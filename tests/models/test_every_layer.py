"""An adversary whose head reads every layer: what it reads, that all weights get its gradient, and what is refused."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from pair_cases import pair_task
from sklearn.linear_model import Ridge
from toy_models import tiny_config, tiny_model, toy_rows, toy_task
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertForSequenceClassification,
    BertModel,
    EfficientNetConfig,
    EfficientNetForImageClassification,
)
from way_cases import draws_of_both_ways

from hf_selfdestruct import HardeningConfig
from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.hardening.readers import check_readers
from hf_selfdestruct.losses.blocking import UniformKL
from hf_selfdestruct.models import heads
from hf_selfdestruct.models.every_layer import AutoModelForEveryLayer, joined, probe, standardised
from hf_selfdestruct.models.stateless import OWN
from hf_selfdestruct.tasks.blocked_task import BlockedTask, draw_rows
from hf_selfdestruct.tasks.language_modeling import LanguageModeling

READER = {"reads": "all_layers", "head": "random", "batch_size": 8}


def called(module, model, batch, *, head):
    """A skeleton's output by the live weights and a head."""
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {ours: live[theirs] for ours, theirs in heads.names_between(module, model).items()}
    drawn = heads.draw(module, [n for n, _ in module.named_parameters() if n not in weights], 0)
    return torch.func.functional_call(module, weights | drawn | head, kwargs=batch)


@pytest.mark.parametrize("kind", ["bert", "efficientnet"])
def test_the_head_reads_the_averages_of_all_layers(kind) -> None:
    """Of padded texts without the padding; of a network that ends in a convolution, also what follows it."""
    generator = torch.Generator().manual_seed(0)
    if kind == "bert":
        model = BertForSequenceClassification(tiny_config("bert", num_labels=5)).eval()
        tokens, mask = torch.randint(1, 30, (6, 7), generator=generator), torch.ones(6, 7, dtype=torch.long)
        mask[2, 4:] = 0
        batch = {"input_ids": tokens, "attention_mask": mask}
        states = model.bert(**batch, output_hidden_states=True).hidden_states
        rows = [torch.cat([s[i, : mask[i].sum()].mean(0) for s in states]) for i in range(6)]
    else:
        config = EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, image_size=64)
        model = EfficientNetForImageClassification(config).eval()
        batch = {"pixel_values": torch.randn(6, 3, 64, 64, generator=generator)}
        outputs = model.efficientnet(**batch, output_hidden_states=True)
        states = [*outputs.hidden_states, outputs.last_hidden_state]
        assert outputs.last_hidden_state.shape[1] == 320 != outputs.hidden_states[-1].shape[1]
        rows = [torch.cat([s[i].mean((1, 2)) for s in states]) for i in range(6)]
    features = torch.stack(rows)
    variance = features.var(0, correction=0)
    expected = (features - features.mean(0)) / (variance + 1e-4 * variance.mean()).sqrt()
    module = heads.skeleton(model, 3, auto_class=AutoModelForEveryLayer(model, batch))
    assert heads.head_names(module) == ["every_layer_head.weight", "every_layer_head.bias"]
    assert not called(module, model, batch, head={}).logits.any()  # it begins at 0
    weight = torch.randn(3, features.shape[1], generator=generator)
    found = called(module, model, batch, head={"every_layer_head.weight": weight})
    torch.testing.assert_close(found.logits, expected @ weight.T, rtol=1e-3, atol=1e-3)


def test_constant_features_are_standardised_to_zero() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    torch.testing.assert_close(standardised(features).abs(), torch.tensor([[1.0, 0.0]]).expand(2, 2), atol=1e-4, rtol=0)
    assert not standardised(torch.ones(3, 2)).any()


@pytest.mark.parametrize(("mode", "episode"), [("first_order", "flat"), ("first_order", "in_place"), ("exact", "flat")])
def test_an_adversary_that_reads_all_layers_moves_every_weight_that_is_read(make_trainer, tmp_path, mode, episode):
    """Also beside adversaries that read the last layer, of which a pool draws one for each life."""
    seen = draws_of_both_ways(
        make_trainer,
        tmp_path,
        field="reads",
        heads={"last": "classifier.weight", "all_layers": "every_layer_head.weight"},
        task=toy_task(),
        losses=[UniformKL()],
        batch_size=8,
        steps=6,
        mode=mode,
        episode=episode,
    )
    assert all(head.any() for _, head in seen)  # that of all layers began at 0


def test_a_head_that_is_solved_is_a_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(20, 6, generator=generator, dtype=torch.float64), torch.arange(20) % 3
    found = probe(features, labels, 3, ridge=0.5)
    known, targets = standardised(features), torch.eye(3).double()[labels]
    alpha = 0.5 * known.square().sum(1).mean()
    fitted = Ridge(alpha=alpha, fit_intercept=False).fit(known, targets - targets.mean(0))
    torch.testing.assert_close(found["every_layer_head.weight"], 3 * torch.from_numpy(fitted.coef_))
    assert not found["every_layer_head.bias"].any()


@pytest.mark.parametrize(
    ("pool", "trainable", "size", "episode"),
    [(0, "all", 8, "flat"), (1, "all", 9, "in_place"), (0, "lora", 8, "flat")],
)
def test_an_adversary_begins_with_a_head_that_knows(make_trainer, tmp_path, pool, trainable, size, episode) -> None:
    """Of a pool, each life; without one, each episode. Later stretches go on with the head that they had.

    Only whole batches are read: a last one of a single row could not be normalised.
    """
    adversary = {**READER, "head": "probe", "learning_rate": 1e-5, "pool": pool, "horizon": 4}
    adversary |= {"trainable": trainable, "batch_size": size}
    options = {"adversary": adversary, "meta_gradient": "first_order", "method_options": {"episode": episode}}
    trainer = make_trainer(tmp_path, model=tiny_model(), blocked_tasks=[toy_task()], **options)
    simulator = trainer.objective.simulator
    for step in range(4):
        draw = simulator.draw(step)
        builder = simulator.builder(trainer.model, draw)
        episode = builder.episode()
        name = OWN + ("every_layer_head.base_layer.weight" if trainable == "lora" else "every_layer_head.weight")
        head = episode.own[name]
        if draw.age:
            assert torch.equal(head, draw.member.own[name])
        else:
            rows = trainer.objective.simulator.collate(
                draw.task.features("train", drawn(draw).tolist(), simulator.columns)
            )
            inputs = {n: v for n, v in rows.items() if n in ("input_ids", "attention_mask")}
            with torch.no_grad():
                states = trainer.model.eval().bert(**inputs, output_hidden_states=True)
            expected = probe(joined(states, inputs["attention_mask"]), rows["labels"], draw.task.outputs)
            torch.testing.assert_close(head, expected["every_layer_head.weight"], rtol=1e-3, atol=1e-4)
            assert head.any()
        simulator.meta_gradient(trainer.model, draw)


def drawn(draw):
    """The rows that a head is solved on."""
    rows = draw_rows(draw.task.adversary_rows(), 256, "probe", *draw.key)
    return rows[: len(rows) // draw.fine_tuning.batch_size * draw.fine_tuning.batch_size]


def test_a_learned_head_on_all_layers_learns(make_trainer, tmp_path) -> None:
    adversary = {"reads": ["last", "all_layers"], "batch_size": 8, "learning_rate": 1e-2}
    trainer = make_trainer(tmp_path, method="mlac_fast", adversary=adversary, max_steps=6)
    (learned,) = trainer.objective.simulator.learned.values()
    before = {name: value.clone() for name, value in learned.head.items()}
    assert {"every_layer_head.weight", "classifier.weight"} <= {*before}
    trainer.train()
    assert all(not torch.equal(before[name], learned.head[name]) for name in before)


def test_what_cannot_read_all_layers_is_refused(make_trainer, tmp_path) -> None:
    for wrong, cure in (
        ({"head": "keep"}, "set head='probe', 'learned' or 'random'"),
        ({"batch_size": 4}, "batch_size=8"),
    ):
        with pytest.raises(ValueError, match=cure):
            Adversary(**{**READER, **wrong})
    with pytest.raises(ValueError, match="set reads='all_layers'"):
        Adversary(head="probe")
    with pytest.raises(ValueError, match="set prelude=0"):
        Adversary(**{**READER, "head": "probe", "prelude": 3})
    with pytest.raises(ValueError, match="set pairs='joined'"):
        make_trainer(tmp_path, blocked_tasks=[pair_task()], adversary={**READER, "pairs": "apart"})
    with pytest.raises(ValueError, match="reads must be one of last, all_layers; got 'every'"):
        Adversary(reads="every")


def test_tasks_over_whose_rows_features_cannot_be_standardised_are_refused() -> None:
    novel = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 20, "labels": [[1, 2, 3]] * 20})
    novel = BlockedTask("novel", train=novel, label_column="labels", kind=LanguageModeling())
    config = HardeningConfig(method="pool").filled("pool")
    few = BlockedTask("few", train=toy_rows(20, seed=1, columns=("blocked",)), label_column="blocked")
    cases = [
        ("blocked task 'novel' is next-token", Adversary(**READER), novel, 1, config),
        ("held-out rows of blocked task 'few' is 4", Adversary(**READER), few, 1, config),
        ("the adversary's examples is 3", Adversary(**READER, examples=(3, 9)), toy_task(), 1, config),
        ("2 processes share", Adversary(**READER), toy_task(), 2, replace(config, adversary={"scope": "global"})),
    ]
    for said, adversary, task, processes, settings in cases:
        with pytest.raises(ValueError, match=f"{said}.*'reads': 'last'"):
            check_readers(settings, [adversary], [task], processes)
    check_readers(config, [Adversary()], [novel], 1)
    check_readers(config, [Adversary(**READER)], [toy_task()], 2)


def test_models_whose_layers_cannot_be_averaged_are_refused() -> None:
    tokens = {"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = BartForSequenceClassification(
        BartConfig(vocab_size=9, **sizes, encoder_attention_heads=1, decoder_attention_heads=1)
    )
    with pytest.raises(ValueError, match="cannot read all layers of BartModel"):
        AutoModelForEveryLayer(bart, tokens)
    with pytest.raises(ValueError, match="for 3 positions and hidden states have 4"):
        joined(tiny_model().bert(tokens["input_ids"], output_hidden_states=True), tokens["attention_mask"])


class Derived(BertModel):
    """A trunk that somebody derived from another one."""


def test_a_derived_trunk_in_half_precision_is_read() -> None:
    model = Derived(tiny_config("bert", num_labels=2)).to(torch.bfloat16)
    reader = AutoModelForEveryLayer(model, {"input_ids": torch.ones(2, 4, dtype=torch.long)})
    module = heads.skeleton(model, 3, auto_class=reader)
    assert {*heads.names_between(module, model).values()} >= {name for name, _ in model.named_parameters()}
