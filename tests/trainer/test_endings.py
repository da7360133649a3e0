"""How training scripts end: what ``Trainer`` has beside training is there, and never costs the evidence."""

import logging

import pytest
import torch
import transformers
import yaml
from datasets import Dataset
from toy_hub import commits, talk_to
from toy_models import TINY_SUITE, tiny_model, toy_rows
from transformers import BertForSequenceClassification

from hf_selfdestruct.files import weights_hash
from hf_selfdestruct.publish.card import details_of
from hf_selfdestruct.publish.earlier import has_evidence
from hf_selfdestruct.publish.layout import SIGNATURE
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.trainer.provenance import data_names, is_hub_id

# As the official examples end.
SCRIPT = {
    "finetuned_from": "google-bert/bert-base-cased",
    "tasks": "text-classification",
    "language": "en",
    "license": "mit",
    "tags": ["glue", "hf_selfdestruct"],
    "model_name": "My model",
    "dataset_tags": "nyu-mll/glue",
    "dataset_args": "sst2",
    "dataset": "GLUE SST2",
}


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    """They take most of the time of a tiny attack, and nothing here looks at them."""
    monkeypatch.setattr("hf_selfdestruct.trainer.attack.save_plots", lambda *_: None)


def head_of(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def accuracy(told):
    return {"accuracy": float((told.predictions.argmax(-1) == told.label_ids).mean())}


@pytest.fixture
def trained(make_trainer, tmp_path):
    def train(**arguments):
        trainer = make_trainer(tmp_path / "hardened", **arguments)
        trainer.train()
        return trainer

    return train


def test_a_whole_script_ends_as_with_trainer(trained, hub, monkeypatch, tmp_path, caplog) -> None:
    trainer = trained(push_to_hub=True, hub_model_id="tester/hardened", hub_token="hf_x", compute_metrics=accuracy)
    folder = trainer.folder
    (said,) = [line for line in caplog.messages if line.startswith("push_to_hub=True")]
    assert "call trainer.push_to_hub() after trainer.attack() to publish" in said
    trainer.save_model()
    with pytest.raises(ValueError, match=r"contains no evidence to publish: call trainer\.attack\(\) before"):
        trainer.push_to_hub(**SCRIPT)
    trainer.create_model_card(**SCRIPT)
    draft = (folder / "README.md").read_text()
    assert "**Not attacked yet.**" in draft
    assert "to block blocked." in draft
    assert head_of(folder)["datasets"] == ["nyu-mll/glue"]
    assert not has_evidence(folder)

    trainer.create_model_card("fr")
    trainer.attack(TINY_SUITE, card={"license": "apache-2.0"})
    assert "Not attacked yet" not in (folder / "README.md").read_text()
    head = head_of(folder)
    assert (head["base_model"], head["language"]) == (SCRIPT["finetuned_from"], ["fr"])
    assert (head["license"], head["datasets"], head["tags"][-1]) == ("apache-2.0", ["nyu-mll/glue"], "glue")
    trainer.create_model_card("de")
    trainer.save_model()
    trainer.save_state()
    assert (head_of(folder)["language"], head_of(folder)["license"]) == (["de"], "apache-2.0")
    assert problems(folder) == []

    talk_to(hub, monkeypatch, tmp_path)
    trainer.push_to_hub("End", True, None, None, None, **SCRIPT)
    assert problems(folder) == []
    (commit,) = commits(hub)
    assert "model.safetensors" in commit.changed
    head = yaml.safe_load(hub.repos["tester/hardened"].files()["README.md"].decode().split("---\n")[1])
    assert head["base_model"] == SCRIPT["finetuned_from"]
    assert head["pipeline_tag"] == SCRIPT["tasks"]
    assert (head["license"], head["language"]) == ("mit", ["en"])
    assert head["tags"] == ["hf_selfdestruct", "tamper-resistance", "glue"]
    (index,) = head["model-index"]
    assert index["name"] == SCRIPT["model_name"]
    assert index["results"][0]["dataset"] == {"name": "GLUE SST2", "type": "nyu-mll/glue", "config": "sst2"}


def test_words_that_would_void_a_signature_or_cover_a_change_leave_everything_as_it_is(trained) -> None:
    trainer = trained()
    trainer.attack(TINY_SUITE)
    folder = trainer.folder
    held = details_of(folder)
    with pytest.raises(TypeError, match=r"create_model_card\(\) takes language, .*; got licence"):
        trainer.create_model_card(licence="mit")
    (folder / SIGNATURE).write_text("{}")
    with pytest.raises(ValueError, match="signs a card without these words; give key= to sign again"):
        trainer.create_model_card(license="mit")
    (folder / SIGNATURE).unlink()
    with torch.no_grad():
        trainer.model.classifier.weight.add_(1.0)
    trainer.save_model()
    for end in (trainer.create_model_card, trainer.push_to_hub):
        with pytest.raises(ValueError, match=r"model\.safetensors: changed .*attack again: trainer\.attack\(\)"):
            end(license="mit")
    assert details_of(folder) == held
    assert [line.split(":")[0] for line in problems(folder)] == ["model.safetensors"]


def test_a_path_is_no_base_model_and_no_data(trained, tmp_path, caplog) -> None:
    trainer = trained()
    trainer.create_model_card(finetuned_from=str(tmp_path), dataset=["a", "b"])
    assert f"finetuned_from={str(tmp_path)!r} is no identifier of the Hub" in caplog.text
    assert not {"base_model", "datasets"} & head_of(trainer.folder).keys()


def test_model_and_data_are_named_where_they_are_known(make_trainer, tmp_path) -> None:
    rows = toy_rows(48, seed=1, columns=("labels",))
    rows.info.download_checksums = {
        f"hf://datasets/{name}@1e2d3c/data/train.parquet": {} for name in ("owner/bios", "owner/bios", "imdb")
    } | {f"{tmp_path}/local.csv": {}}
    rows = rows.map(lambda row: row)
    model = tiny_model()
    model.config._name_or_path = "google-bert/bert-base-uncased"
    trainer = make_trainer(tmp_path, model=model, train_dataset=rows)
    trainer.create_model_card()
    head = head_of(tmp_path)
    assert head["base_model"] == "google-bert/bert-base-uncased"
    assert head["datasets"] == ["imdb", "owner/bios"]
    assert data_names(Dataset.from_dict({"a": [1]})) == ()
    assert [is_hub_id(name) for name in ("", str(tmp_path), "a/b/c", "../b", "gpt2")] == [False] * 4 + [True]


def test_attacks_are_silent_on_configurations_and_loads(trained, loudness, caplog) -> None:
    trainer = trained()
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_propagation()
    with caplog.at_level(logging.INFO):
        trainer.attack(TINY_SUITE)
    transformers.logging.disable_propagation()
    said = [record for record in caplog.records if record.name.startswith("transformers")]
    assert said
    assert not [record.message for record in said if record.message.startswith(("Model config", "loading"))]
    assert len(said) < 60


def test_weights_that_were_not_trained_there_overwrite_nothing(make_trainer, trained) -> None:
    trainer = trained()
    folder = trainer.folder
    trainer.save_model()
    hardened = weights_hash(folder)
    for evidence in (False, True):
        if evidence:
            trainer.attack(TINY_SUITE)
        with pytest.raises(ValueError, match=r"which has not trained; nothing was overwritten\. Load the model from"):
            make_trainer(folder, model=tiny_model()).attack(TINY_SUITE)
        assert weights_hash(folder) == hardened
        assert not [name for name in ("_earlier", "_saved") if (folder / name).exists()]
    assert problems(folder) == []
    make_trainer(folder, model=BertForSequenceClassification.from_pretrained(folder)).attack(TINY_SUITE)
    assert problems(folder) == []
