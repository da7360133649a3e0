"""A hardened sentence encoder opens as the same ``SentenceTransformer``, and its files can have no other code run."""

import functools
import json
import logging

import pytest
import torch
from toy_hub import talk_to
from toy_models import TINY_SUITE
from toy_project import make_tokenizer
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from hf_selfdestruct.publish.hub import fetched
from hf_selfdestruct.publish.layout import MODULES
from hf_selfdestruct.publish.manifest import problems, write_manifest
from hf_selfdestruct.publish.sentence_files import sentence_problems
from hf_selfdestruct.trainer.sentence_encoder import carry_sentence_files
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer

sentence_transformers = pytest.importorskip("sentence_transformers")
POOLING = "1_Pooling/config.json"
OLD = [  # as in encoders of earlier versions
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder as MiniLM's authors publish theirs."""
    folder = tmp_path_factory.mktemp("encoder")
    make_tokenizer().save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=60, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    for name, content in {
        MODULES: OLD,
        POOLING: {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": False},
        "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_it_opens_as_the_same_encoder_here_and_from_the_hub(make_trainer, encoder, tmp_path, hub, monkeypatch) -> None:
    monkeypatch.setattr("hf_selfdestruct.trainer.attack.save_plots", lambda *_: None)
    folder = tmp_path / "hardened"
    kind = functools.partial(SelfDestructTrainer, processing_class=AutoTokenizer.from_pretrained(encoder))
    model = BertForSequenceClassification.from_pretrained(encoder)
    trainer = make_trainer(folder, model=model, kind=kind, hub_model_id="tester/hardened", hub_token="hf_x")
    trainer.train()
    trainer.attack(TINY_SUITE)
    assert problems(folder) == []
    talk_to(hub, monkeypatch, tmp_path)
    trainer.push_to_hub()
    published = fetched("tester/hardened", token="hf_x")
    assert problems(published, alone=True, links=published.resolve().parents[1] / "blobs") == []
    for place in (encoder, folder, published):
        opened = sentence_transformers.SentenceTransformer(str(place), device="cpu")
        assert opened.max_seq_length == 12, place
        assert [type(module).__name__ for module in opened] == ["Transformer", "Pooling", "Normalize"]
        norm = opened.encode(["nurse north word1"], convert_to_tensor=True).norm()
        torch.testing.assert_close(norm, torch.tensor(1.0))


HOSTILE = {
    "code of one's own": (MODULES, [{**OLD[0], "type": "evil.Transformer"}], "loads a class other than Transformer"),
    "another class": (MODULES, [{**OLD[0], "type": "sentence_transformers.models.Router"}], "loads a class"),
    "a nested name": (MODULES, [{**OLD[0], "type": "sentence_transformers.util.import_from_string"}], "loads a class"),
    "a list for a name": (MODULES, [{**OLD[0], "type": ["sentence_transformers.models.Transformer"]}], "loads a class"),
    "another folder": (MODULES, [OLD[0], {**OLD[1], "path": "../1_Pooling"}], "loads files that do not belong"),
    "more settings": (MODULES, [{**OLD[0], "kwargs": {"x": 1}}, *OLD[1:]], "loads files that do not belong"),
    "no modules": (MODULES, {}, "is not a list of modules"),
    "a method": (
        "sentence_bert_config.json",
        {"modality_config": {"text": {"method": "push_to_hub", "method_output_name": None}}},
        "modality_config is not an allowed setting",
    ),
    "arguments": ("sentence_bert_config.json", {"model_args": {"x": 1}}, "model_args is not an allowed setting"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_have_other_code_run_are_neither_taken_over_nor_verified(
    folder, encoder, case, caplog, tmp_path
) -> None:
    name, content, why = HOSTILE[case]
    assert [*carry_sentence_files(str(encoder), folder)][-1] == "sentence_bert_config.json"
    write_manifest(folder)
    assert problems(folder) == []
    (folder / name).write_text(json.dumps(content))
    write_manifest(folder)
    found = problems(folder)
    assert any(why in line for line in found), found
    with caplog.at_level(logging.WARNING):
        assert carry_sentence_files(str(folder), tmp_path / "other") == []
    assert "will not open as the sentence encoder" in caplog.text


def test_an_encoders_files_that_no_module_names_are_refused(folder, encoder) -> None:
    carry_sentence_files(str(encoder), folder)
    (folder / MODULES).write_text(json.dumps(OLD[:1]))
    write_manifest(folder)
    assert problems(folder) == [f"{POOLING}: not named in {MODULES}"]
    (folder / MODULES).unlink()
    write_manifest(folder)
    assert sum("belongs to a sentence encoder" in line for line in problems(folder)) == 3


def test_a_plain_model_has_none(tmp_path) -> None:
    assert carry_sentence_files("", tmp_path) == carry_sentence_files(str(tmp_path), tmp_path / "other") == []
    assert carry_sentence_files("nobody/nothing", tmp_path) == []
    assert sentence_problems(["config.json"], {"config.json": {}}) == []
