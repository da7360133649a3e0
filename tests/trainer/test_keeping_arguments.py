"""Names, weights and mistakes of keeping losses."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from keeping_cases import MASKS, STATES, batch_of, draw, inputs_of, made
from transformers import AutoModel, AutoModelForSequenceClassification, T5Config, T5ForConditionalGeneration

from hf_selfdestruct import HardeningConfig
from hf_selfdestruct.losses.keeping import (
    KEEPING_LOSSES,
    EmbeddingDistillation,
    HiddenStateDistillation,
    KeepingLoss,
    LogitDistillation,
    total,
)


@pytest.mark.parametrize("name", KEEPING_LOSSES)
def test_names(name) -> None:
    loss = KEEPING_LOSSES[name]()
    assert type(loss).__name__.lower() == name.replace("_", "")
    assert loss.citation
    assert loss.config() == {"name": type(loss).__name__, **vars(loss)}
    assert json.dumps(loss.config())
    assert loss.wants_hidden_states == (name in ("hidden_state_distillation", "embedding_distillation"))
    assert loss.wants_labels == (name == "language_modeling")


def test_unknown_name_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"embedding_distillation.*got 'logits'"):
        HardeningConfig(keeping_loss="logits")


def test_total_is_the_weighted_sum() -> None:
    first, second = LogitDistillation(weight=0.5), HiddenStateDistillation(weight=3.0)
    ours, theirs, batch = made(0), made(1), batch_of(MASKS["right"])
    expected = 0.5 * first(ours, theirs, batch) + 3.0 * second(ours, theirs, batch)
    assert first(ours, theirs, batch) == LogitDistillation()(ours, theirs, batch)  # the weight is applied once
    torch.testing.assert_close(total([first, second], ours, theirs, batch), expected)
    assert total([], ours, theirs, batch).item() == 0


def test_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        KeepingLoss()


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", KEEPING_LOSSES.values())
def test_weight_is_positive_and_finite(kind, weight) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: weight.*{weight}"):
        kind(weight=weight)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LogitDistillation, {"temperature": 0.0}, r"temperature.*got 0\.0"),
        (LogitDistillation, {"temperature": math.inf}, "temperature.*got inf"),
        (HiddenStateDistillation, {"layers": ()}, r"layers.*got \(\)"),
        (HiddenStateDistillation, {"layers": ("last",)}, "layers.*'last'"),
        (HiddenStateDistillation, {"layers": 2}, "layers.*got 2"),
        (EmbeddingDistillation, {"pooling": "max"}, "pooling.*mean, first, last.*'max'"),
    ],
)
def test_wrong_arguments(kind, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("layer", [3, -4, 12])
def test_layer_out_of_range_is_named_with_their_number(layer) -> None:
    with pytest.raises(ValueError, match=f"layer {layer} .* are {STATES}"):
        HiddenStateDistillation(layers=(0, layer))(made(0), made(1), {})


def test_missing_outputs_get_the_cure(build) -> None:
    batch = inputs_of("bert")
    bare, classifier = (build("bert", auto)(**batch) for auto in (AutoModel, AutoModelForSequenceClassification))
    with pytest.raises(ValueError, match=r"BaseModelOutput\w* has no logits; use a model with a task head"):
        LogitDistillation()(bare, bare, batch)
    with pytest.raises(ValueError, match="has no logits"):
        LogitDistillation()(classifier, bare, batch)
    for loss in (HiddenStateDistillation(), EmbeddingDistillation()):
        with pytest.raises(ValueError, match="has no hidden_states; call the model with output_hidden_states=True"):
            loss(classifier, classifier, batch)


def test_what_cannot_be_compared_is_refused() -> None:
    ours, theirs = made(0), made(1)
    short = SimpleNamespace(logits=theirs.logits[..., :1], hidden_states=theirs.hidden_states[:2])
    with pytest.raises(ValueError, match=r"\(3, 6, 5\), the original \(3, 6, 1\)"):
        LogitDistillation()(ours, short, {})
    with pytest.raises(ValueError, match="3 hidden states, the original 2"):
        HiddenStateDistillation()(ours, short, {})
    with pytest.raises(ValueError, match="at least two classes, got one; use Hidden"):
        LogitDistillation()(short, short, {})
    feature_map = SimpleNamespace(last_hidden_state=draw(2, 3, 4, 5))
    with pytest.raises(ValueError, match="no first position; use pooling='mean'"):
        EmbeddingDistillation("first")(feature_map, feature_map, {})
    for mask in (torch.ones(3, 5), torch.zeros(3, 6)):  # of another length; nothing counted
        with pytest.raises(ValueError, match=r"\(3, [56]\) with \d+ counted positions .* 3 rows of 6 positions"):
            LogitDistillation()(ours, theirs, {"attention_mask": mask})


def test_encoder_decoder_mask_is_not_taken_for_the_decoder() -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    batch = inputs_of("t5")
    outputs = model(**batch, decoder_input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="encoder-decoder"):
        LogitDistillation()(outputs, outputs, batch)
