"""Texts longer than a model has positions for are refused before training; from a configuration they are cut."""

import numpy as np
import pytest
import torch
from corpus_parts import config_of, save, toy
from datasets import Dataset
from toy_models import tiny_model, toy_rows, toy_task
from toy_project import make_project, make_tokenizer
from transformers import BartConfig, BartForSequenceClassification, MPNetConfig, MPNetForSequenceClassification

from hf_selfdestruct.jobs.processors import processor_of
from hf_selfdestruct.jobs.sections import DataConfig
from hf_selfdestruct.jobs.text_data import load_data
from hf_selfdestruct.tasks.positions import _lengths, check_lengths, positions_of

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def bart():
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes = {"vocab_size": 60, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, **layers}
    return BartForSequenceClassification(BartConfig(max_position_embeddings=16, **sizes))


MODELS = {
    **{name: lambda name=name: tiny_model(name) for name in ("bert", "distilbert", "roberta", "gpt2")},
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(max_position_embeddings=16, pad_token_id=1, **SIZES)),
    "bart": bart,
}


def answers(model, length):
    ids = torch.full((1, length), 5)
    ids[:, -1] = model.config.eos_token_id if model.config.model_type == "bart" else 5
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_exactly_as_long_a_text_as_it_has_positions(name):
    model = MODELS[name]().eval()
    most = positions_of(model)
    assert most == {"roberta": 15, "mpnet": 14}.get(name, 16)
    assert (answers(model, most), answers(model, most + 1)) == (True, False)


@pytest.mark.parametrize("name", ["llama", "modernbert", "vit"])
def test_a_model_without_a_table_of_positions_has_no_limit(name):
    assert positions_of(tiny_model(name)) is None


def longer(rows, *, by=10):
    return rows.map(
        lambda row: {n: row[n] + [1] * by * (row["input_ids"][1] % 2) for n in ("input_ids", "attention_mask")}
    )


@pytest.mark.parametrize("where", ["train_dataset", "eval_dataset", "keep_dataset", "train", "attack", "test"])
def test_longer_rows_are_refused_wherever_they_are(make_trainer, tmp_path, where):
    rows = longer(toy_rows(40, seed=3, columns=("blocked",) if where in ("train", "attack", "test") else ("labels",)))
    many = sum(len(ids) > 16 for ids in rows["input_ids"])
    data = {"blocked_tasks": [toy_task(**{where: rows})]} if where in ("train", "attack", "test") else {where: rows}
    if where == "keep_dataset":
        data["keeping_loss"] = "logit_distillation"
    with pytest.raises(
        ValueError, match=rf"{where}.*: {many} of 40 rows are longer than the 16 .*longest has 18 .*=16"
    ):
        make_trainer(tmp_path, **data)


def test_what_attack_is_given_is_looked_at_before_its_sibling_is_trained(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    control = longer(toy_rows(30, seed=5, columns=("blocked",)))
    for given, named in (
        ({"desired_dataset": longer(toy_rows(9, seed=4, columns=("labels",)))}, "desired_dataset"),
        ({"controls": [toy_task("other", seed=50, test=control)]}, "task 'other', split 'test'"),
    ):
        with pytest.raises(ValueError, match=rf"{named}: \d+ of \d+ rows are longer"):
            trainer.attack("smoke", **given)
    assert not (tmp_path / "_undefended").exists()


def test_lengths_are_those_of_python():
    rows = toy_rows(20, seed=1)
    long = longer(rows).select([7, 3, 9])
    np.testing.assert_array_equal(_lengths(long), [len(ids) for ids in long["input_ids"]])
    choices = Dataset.from_dict({"input_ids": [[[1, 2], [3]], [[4] * 40, [5]]]})
    np.testing.assert_array_equal(_lengths(choices), [2, 1, 40, 1])
    assert _lengths(Dataset.from_dict({"input_ids": [1, 2]})).size == 0


def test_transforms_and_streams_are_not_looked_at():
    rows = longer(toy_rows(20, seed=1))
    lazy = rows.with_transform(lambda found: {**found, "input_ids": [ids[:8] for ids in found["input_ids"]]})
    check_lengths(tiny_model(), {"train_dataset": lazy, "eval_dataset": rows.to_iterable_dataset()})
    with pytest.raises(ValueError, match=r"eval_dataset\['dev'\]"):
        check_lengths(tiny_model(), {"eval_dataset": {"dev": rows}})


def test_a_configuration_cuts_texts_at_the_smaller_of_its_own_length_and_the_positions(tmp_path, caplog):
    make_project(tmp_path)  # with 32 positions
    rows = toy()
    for row in rows["train"]:
        row["text"] += " word1" * 40
    folder, tokenizer = save(tmp_path / "long", rows), processor_of(str(tmp_path / "model"), DataConfig("d"))
    for most, found in ((200, 32), (16, 16)):
        data = load_data(config_of(folder, max_length=most), tokenizer)
        assert {len(ids) for ids in data["train"]["input_ids"]} == {found}
        assert ("reads at most 32 tokens" in caplog.text) == (most == 200)
        caplog.clear()
    tokenizer.save_pretrained(tmp_path / "saved")
    assert type(make_tokenizer()).from_pretrained(tmp_path / "saved").model_max_length == 32
