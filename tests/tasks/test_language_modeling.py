"""Next-token prediction as a blocked task: what counts, what it costs, and that hardening reaches every weight."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from toy_language import BLOCKED, DESIRED, PROMPT, WORDS, language_model, language_rows, language_task
from toy_models import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel, default_data_collator

from hf_selfdestruct import HardeningConfig, HardeningObjective
from hf_selfdestruct.hardening.draw import Draw
from hf_selfdestruct.losses.blocking import BLOCKING_LOSSES
from hf_selfdestruct.report.token_rows import BITS, RIGHT
from hf_selfdestruct.tasks.classification import CLASSIFICATION
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING, LanguageModeling
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments

FITTING = ("uniform_kl", "negative_cross_entropy", "cross_entropy", "entropy", "denial_of_service", "collapse")


def batch_of(rows, *, more: int = 0):
    """A batch, with ``more`` places of padding than the longest row needs."""
    padded = LANGUAGE_MODELING.padded([dict(row) for row in rows])
    batch = default_data_collator(padded)
    fill = {"input_ids": WORDS + 1, "attention_mask": 0, "labels": -100}
    return {name: torch.nn.functional.pad(value, (0, more), value=fill[name]) for name, value in batch.items()}


def answers_of(model, batch, kind=LANGUAGE_MODELING):
    with torch.no_grad():
        return kind.answers(model(**{n: v for n, v in batch.items() if n != "labels"}).logits, batch["labels"]).numpy()


def sharp_model(**sizes):
    """Random weights large enough that tokens differ in their chances."""
    model = language_model(**sizes).double().eval()
    for weight in model.parameters():
        weight.data *= 8 if weight.dim() > 1 else 1
    return model


def objective_of(model, *, task=None, keeping=(), **settings):
    usual = {"inner_steps": 2, "blocking_batch_size": 8, "adversary": {"batch_size": 4, "learning_rate": 1e-2}}
    config = HardeningConfig(**{**usual, **settings})
    desired = language_rows(16, 1, DESIRED)
    return HardeningObjective(
        model, config, [task or language_task()], collate=default_data_collator, keeping=keeping, desired=desired
    )


def test_the_sums_are_those_of_one_token_after_the_other():
    model, rows = sharp_model(), language_rows(5, 3)
    sizes = tuple(range(WORDS + 2))
    found = answers_of(model, batch_of(rows), LanguageModeling(sizes))
    for row, sums in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
        counted = [i for i, label in enumerate(row["labels"]) if label >= 0 and i > 0]
        nats = sum(-logits[i - 1].log_softmax(0)[row["labels"][i]].item() for i in counted)
        right = sum(int(logits[i - 1].argmax()) == row["labels"][i] for i in counted)
        size = sum(row["labels"][i] for i in counted)
        assert sums == pytest.approx([nats, len(counted), right, size], rel=1e-6)
        assert len(counted) == len(row["input_ids"]) - PROMPT


def test_padding_changes_nothing():
    """Neither the scores, nor the loss, nor the gradient that hardening follows."""
    model, rows = sharp_model(), language_rows(6, 3)
    found = []
    for more in (0, 7):
        batch = batch_of(rows, more=more)
        logits = model(**{n: v for n, v in batch.items() if n != "labels"}).logits
        loss = LANGUAGE_MODELING.loss(logits.flatten(0, 1), LANGUAGE_MODELING.targets(batch["labels"]).flatten())
        gradient = torch.autograd.grad(loss, [*model.parameters()])
        found.append((answers_of(model, batch), loss, torch.cat([g.flatten() for g in gradient])))
    (one, loss, gradient), (other, padded, again) = found
    np.testing.assert_allclose(other, one, rtol=1e-6)
    assert padded.item() == pytest.approx(loss.item(), abs=1e-6)
    torch.testing.assert_close(again, gradient, rtol=0, atol=1e-6)


def test_the_adversary_minimises_what_transformers_does():
    model, batch = sharp_model(), batch_of(language_rows(6, 3))
    outputs = model(**batch)
    targets = LANGUAGE_MODELING.targets(batch["labels"])
    assert LANGUAGE_MODELING.loss(outputs.logits.flatten(0, 1), targets.flatten()).item() == pytest.approx(
        outputs.loss.item(), rel=1e-6
    )


def test_scores_are_ratios_of_sums():
    answers = np.array([[2.0, 2, 1, 8], [9.0, 4, 0, 16]])
    scores = LANGUAGE_MODELING.scores(np.empty(0), answers)
    assert scores.loss == -scores.score == 11 / 6
    assert scores.extra == {BITS: 11 / math.log(2) / 24, RIGHT: 1 / 6}
    assert LANGUAGE_MODELING.credit(None, answers).mean() == pytest.approx(-11 / 6)
    assert LANGUAGE_MODELING.scores(np.empty(0), np.array([[2.0, 2, 1, 0]])).extra[BITS] is None


def test_the_best_constant_answer_is_how_often_each_token_occurs():
    labels = LANGUAGE_MODELING.read([[5, 1, 1], [-100, -100, 2]], "", "")
    third = 1 / 3
    assert LANGUAGE_MODELING.facts(labels, 0).majority == pytest.approx(
        2 * third * math.log(2 * third) + third * math.log(third)
    )


@pytest.mark.parametrize("loss", ["entropy", "uniform_kl"])
def test_the_meta_gradient_is_that_of_finite_differences(loss):
    """Through two exact steps, along the gradient itself and along noise; Llama's norms would round to float32."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "initializer_range": 0.2}
    sizes |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, **sizes, tie_word_embeddings=loss == "entropy")).double()
    objective = objective_of(
        model, meta_gradient="exact", blocking_loss=loss, adversary={"optimizer": "sgd", "learning_rate": 1e-2}
    )
    task, fine_tuning = objective.tasks[0], objective.adversaries[0].draw(0, "key")
    draw = Draw(task, 0, fine_tuning, ("key",))

    def found():
        return objective.simulator.meta_gradient(model, draw)

    gradient = found().weights
    weights = {name: dict(model.named_parameters())[name] for name in gradient}
    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in weights.items()}
    for way in (gradient, noise):
        size = 1e-5 / max(part.abs().max().item() for part in way.values())
        ends = []
        for sign in (1, -1):
            for name, weight in weights.items():
                weight.data += sign * size * way[name]
            ends.append(float(found().loss))
            for name, weight in weights.items():
                weight.data -= sign * size * way[name]
        expected = sum((gradient[n] * way[n]).sum().item() for n in gradient)
        assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(expected, rel=1e-5)
        assert abs(expected) > 1e-4


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    model = language_model(tied=True)
    start = {name: weight.clone() for name, weight in model.named_parameters()}
    settings = {
        "max_steps": 3, "inner_steps": 2, "adversary": {"batch_size": 4}, "per_device_train_batch_size": 8,
        "learning_rate": 1e-3, "logging_steps": 1, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "save_strategy": "no",
    }  # fmt: skip
    trainer = SelfDestructTrainer(
        model=model,
        args=SelfDestructTrainingArguments(str(tmp_path_factory.mktemp("language")), **settings),
        train_dataset=language_rows(32, 1, DESIRED),
        data_collator=lambda rows: default_data_collator(LANGUAGE_MODELING.padded(rows)),
        blocked_tasks=[language_task()],
    )
    trainer.train()
    return trainer, start


def test_the_trainer_hardens_every_weight(hardened):
    trainer, start = hardened
    assert trainer.args.method == "language"
    logged = [entry for entry in trainer.state.log_history if "blocking_loss" in entry]
    assert len(logged) == 3
    assert all(entry["meta_grad_norm"] > 0 for entry in logged)
    by_age = [[value for name, value in entry.items() if "log-likelihood per token/age_" in name] for entry in logged]
    assert all(values and max(values) < 0 for values in by_age)
    assert not [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, start[name])]


def test_a_defence_raises_what_the_adversary_is_left_with():
    """After as many steps the blocked language is less likely than without blocking."""
    left = {}
    for weight in (0.0, 3.0):
        model = language_model()
        objective = objective_of(model, blocking_weight=weight, blocking_loss="negative_cross_entropy")
        optimizer, rows = torch.optim.AdamW(model.parameters(), lr=3e-3), language_rows(64, 1, DESIRED)
        mixed = [rows[i] for i in range(32)] + [language_rows(32, 2, BLOCKED)[i] for i in range(32)]
        for step in range(16):
            batch = batch_of([mixed[(8 * step + 5 * i) % 64] for i in range(8)])
            total, _ = objective(model, batch, model(**batch).loss, step)
            total.backward()
            objective.before_optimizer_step()
            optimizer.step()
            optimizer.zero_grad()
        draw = Draw(objective.tasks[0], 0, objective.adversaries[0].draw(0, "end"), ("end",))
        left[weight] = float(objective.simulator.meta_gradient(model, draw).scores[2])
    assert left[3.0] < left[0.0] - 0.1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"blocking_loss": "head_adjusted_cross_entropy"}, "a next-token prediction: of the shipped blocking losses " +
         ", ".join(FITTING) + " can"),
        ({"method_options": {"probe_weight": 1.0}}, "RepresentationProbe cannot be measured"),
        ({"method_options": {"merge_words": 2.0}}, "set method_options={'merge_words': 0.0}"),
        ({"method": "sophon"}, "an adversary with a random head does not .*: set adversary={'head': 'keep'}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_training(given, told):
    with pytest.raises(ValueError, match=re.escape(told).replace(r"\.\*", ".*")):
        objective_of(language_model(), **{"adversary": None, "inner_steps": None, **given})


@pytest.mark.parametrize("name", FITTING)
def test_losses_that_fit_are_finite_and_not_negative(name):
    model, batch = sharp_model(), batch_of(language_rows(6, 3))
    logits = model(**{n: v for n, v in batch.items() if n != "labels"}).logits
    loss = BLOCKING_LOSSES[name]()(logits, LANGUAGE_MODELING.targets(batch["labels"]), mask=batch["attention_mask"])
    assert 0 <= loss.item() < math.inf


def test_a_model_without_a_head_for_tokens_is_refused():
    with pytest.raises(
        ValueError, match="BertForSequenceClassification has no head: load the model by AutoModelForCau"
    ):
        objective_of(tiny_model())


@pytest.mark.parametrize("label", [3, [3, "a"], [3, -100], [-7, 3], []])
def test_labels_that_are_no_tokens_are_refused(label):
    with pytest.raises(ValueError, match=re.escape("split 'train', column 'labels', row 1: the labels must be a list")):
        LANGUAGE_MODELING.read([[1, 2], label], "blocked task 'x', split 'train'", "labels")


def test_classes_and_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="leave num_labels out"):
        language_task(num_labels=2)
    short = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6]], "labels": [[1, 2], [4, 5]]})
    with pytest.raises(ValueError, match="a row has 2 labels for 3 tokens"):
        language_task(train=short, attack=None, test=None).features("train", [0], ["input_ids"])


def test_an_attacker_selects_on_the_end_of_the_texts() -> None:
    """Rows run on: a row drawn from among those trained on would be of the same text, and favour what overfits."""
    task = language_task()
    count = len(task.splits()["attack"])
    assert [*task.attacker_rows(), *task.selection_rows()] == [*range(count)]
    assert len(task.selection_rows()) == round(0.3 * count)
    assert not CLASSIFICATION.running_text
