"""What an attack loads: published weights and a new head, and no code."""

import json
import shutil

import pytest
import torch
from conftest import save_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
)

from hf_selfdestruct.attacks import Target
from hf_selfdestruct.attacks.target import distance


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def edit_weights(folder, change):
    weights = load_file(f"{folder}/model.safetensors")
    change(weights)
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def copied(folder, tmp_path):
    return str(shutil.copytree(folder, tmp_path / "copy"))


# Loading


def test_trunk_is_the_published_one_and_the_head_is_new(folder, target):
    saved = load_file(f"{folder}/model.safetensors")
    model = target.load(3, seed=1)
    assert model.config.num_labels == 3
    for name, value in model.state_dict().items():
        if name.startswith("bert.") and name in saved:
            assert torch.equal(value, saved[name]), name
    assert {n for n in saved if n.startswith("bert.")} == {
        n for n, _ in model.named_parameters() if n.startswith("bert.")
    }
    assert model.classifier.weight.shape == (3, 32)
    assert model.classifier.weight.std() > 0


def test_head_depends_on_the_seed_alone(target, folder):
    torch.manual_seed(1)
    one = state(target.load(2, seed=5))
    torch.manual_seed(2)
    again, other = state(target.load(2, seed=5)), state(Target("undefended", folder).load(2, seed=6))
    assert equal(one, again) == set(one)
    assert set(one) - equal(one, other) == {"classifier.weight"}


def test_head_is_the_same_for_every_model(target, save_model, tmp_path):
    """Trained models, and scratch, start from the same head at the same seed."""
    other = Target("base", save_model(tmp_path, seed=9)).load(2, seed=3)
    scratch = Target("scratch", target.folder, random=True).load(2, seed=3)
    mine = target.load(2, seed=3)
    assert torch.equal(mine.classifier.weight, other.classifier.weight)
    assert torch.equal(mine.classifier.weight, scratch.classifier.weight)
    assert not torch.equal(mine.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)


def test_scratch_has_nothing_of_the_published_weights(folder, target):
    scratch = Target("scratch", folder, random=True)
    one, other, again = (state(scratch.load(2, seed=s)) for s in (0, 1, 0))
    trained = state(target.load(2, seed=0))
    matrices = {n for n in one if one[n].ndim > 1 and "LayerNorm" not in n and "_ids" not in n}
    assert len(matrices) > 8
    assert not matrices & equal(one, other)
    assert not (matrices - {"classifier.weight"}) & equal(one, trained)
    assert equal(one, again) == set(one)


def test_loading_leaves_the_global_generator_alone(target):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    target.load(2, seed=0)
    Target("scratch", target.folder, random=True).load(2, seed=0)
    assert torch.equal(torch.rand(2), expected)


def test_half_precision_is_no_shield(folder, copied, target):
    """Weights published in bf16 are attacked in float32, and so is what starts from scratch."""
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(copied)
    assert AutoConfig.from_pretrained(copied).dtype == torch.bfloat16
    half, scratch = Target("hardened", copied), Target("scratch", copied, random=True)
    for model in (half.load(2, seed=0), scratch.load(2, seed=0), half.published()):
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    of_float32 = Target("scratch", folder, random=True)
    assert equal(state(scratch.load(2, seed=0)), state(of_float32.load(2, seed=0))) == set(state(target.load(2, 0)))
    assert scratch.identity() == of_float32.identity()


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_the_blocked_task_has_one_label_whatever_the_desired_task_has(copied, kind):
    config = AutoConfig.from_pretrained(copied, problem_type=kind)
    config.save_pretrained(copied)
    ids, labels = torch.tensor([[4, 9], [5, 8]]), torch.tensor([0, 1])
    found = Target("hardened", copied).load(2, seed=0).eval()(input_ids=ids, labels=labels)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits, labels))


def test_what_is_published_of_training_is_no_shield(folder, copied, target):
    """More dropout than usual, or new weights drawn from far away, would weaken every fine-tuning."""
    usual, less = AutoConfig.from_pretrained(folder), {"attention_probs_dropout_prob": 0.0}
    worse = {"hidden_dropout_prob": 0.9, "classifier_dropout": 0.5, "initializer_range": 30.0, **less}
    config = AutoConfig.from_pretrained(copied)
    config.update(worse)
    config.save_pretrained(copied)
    model, published = Target("hardened", copied).load(3, 0), Target("hardened", copied).published()
    for held in (model.config, published.config):
        expected = {name: getattr(usual, name) for name in worse} | less
        assert {name: getattr(held, name) for name in worse} == expected
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1, 0.0}
    assert torch.equal(model.classifier.weight, target.load(3, 0).classifier.weight)


def test_a_masked_language_model_has_a_new_pooler_like_a_new_head(folder, copied):
    BertForMaskedLM.from_pretrained(folder).save_pretrained(copied)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, again, other = (state(Target("base", copied).load(2, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(one, again) == set(one)
    assert set(one) - equal(one, other) == {"classifier.weight", "bert.pooler.dense.weight"}
    edit_weights(copied, lambda w: w.pop("bert.encoder.layer.0.attention.self.query.weight"))
    with pytest.raises(ValueError, match=r"missing.*query\.weight"):
        Target("base", copied).load(2, seed=0)


def test_a_pooler_that_is_published_with_a_masked_language_model_is_the_published_one(folder, copied):
    """As in many checkpoints whose architecture has none: what lies there is not drawn anew."""
    BertForMaskedLM.from_pretrained(folder).save_pretrained(copied)
    pooler = {n: v for n, v in load_file(f"{folder}/model.safetensors").items() if "pooler" in n}
    edit_weights(copied, lambda w: w.update(pooler))
    model = state(Target("base", copied).load(2, seed=0))
    assert pooler
    assert all(torch.equal(model[name], value) for name, value in pooler.items())


def test_missing_trunk_weights_are_refused(copied):
    """Weights that a folder lacks must not be filled in at random and attacked as if published."""
    edit_weights(copied, lambda w: w.pop("bert.encoder.layer.0.attention.self.query.weight"))
    with pytest.raises(ValueError, match=r"missing.*query\.weight"):
        Target("hardened", copied).load(2, seed=0)


def test_weights_the_attack_does_not_need_may_be_missing(folder, copied):
    """A bare trunk without the desired task's head is as good."""
    AutoModel.from_pretrained(folder).save_pretrained(copied)
    bare, full = (Target("base", f).load(2, seed=0) for f in (copied, folder))
    assert equal(state(bare), state(full)) == set(state(full))


def test_pickled_weights_are_refused(copied, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(copied)
    torch.save(model.state_dict(), f"{copied}/pytorch_model.bin")
    (tmp_path / "copy" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        Target("hardened", copied).load(2, seed=0)


def test_code_in_a_folder_is_never_run(copied, tmp_path):
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}
    path.write_text(json.dumps(config))
    (tmp_path / "copy" / "trap.py").write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')\n")
    Target("hardened", copied).load(2, seed=0)
    assert not (tmp_path / "trapped").exists()


def test_identity_changes_with_a_weight(copied):
    target = Target("hardened", copied)
    before = target.identity()
    assert before.name == "copy"
    assert len(before.sha256) == 64
    assert target.identity() == before
    edit_weights(copied, lambda w: w["bert.encoder.layer.0.output.dense.bias"][:1].add_(1e-3))
    assert target.identity().sha256 != before.sha256


def test_distances_are_measured_on_the_trunks(tmp_path):
    save_model(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.classifier.weight.add_(1.0)  # a head of its own changes nothing
    model.save_pretrained(tmp_path / "undefended")
    with torch.no_grad():
        for weight in model.bert.parameters():
            weight.mul_(1.25)
    model.save_pretrained(tmp_path / "hardened")
    base, undefended, hardened = (Target(n, str(tmp_path / n)) for n in ("base", "undefended", "hardened"))
    assert distance(undefended, base) == 0
    assert distance(hardened, base) == pytest.approx(0.25)
