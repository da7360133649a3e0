"""Gibberish is what repeats itself or surprises who counted desired texts, and desired texts themselves are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from toy_language import BLOCKED, DESIRED, WORDS, language_model, language_rows, language_task
from transformers import default_data_collator
from transformers.modeling_outputs import CausalLMOutput

from hf_selfdestruct.attacks import AttackData
from hf_selfdestruct.attacks.methods.general import desired_texts
from hf_selfdestruct.attacks.methods.gibberish import Continuations, continued, gibberish_rate

COLUMNS = ["input_ids", "attention_mask"]
PARTS = {"prompt": 5, "length": 9}  # half of the shortest of rows of 10 to 14 tokens, and what follows in the longest


@pytest.fixture(scope="module")
def data():
    desired = desired_texts(language_rows(200, 8, DESIRED), language_rows(60, 9, DESIRED), COLUMNS)
    return AttackData.of(language_task(), COLUMNS, default_data_collator, desired=desired)


class Speaker(nn.Module):
    """Says the next token by a rule: the last one plus a jump, all else being impossible."""

    def __init__(self, jump):
        super().__init__()
        self.jump = jump

    def forward(self, input_ids, attention_mask):
        wanted = (input_ids + self.jump) % WORDS
        return CausalLMOutput(logits=(torch.nn.functional.one_hot(wanted, WORDS) - 1.0) * 1e4)


def test_beginnings_are_as_long_as_texts_allow(data):
    texts = Continuations(data.desired)
    assert ({len(prompt) for prompt in texts.prompts}, texts.length) == ({PARTS["prompt"]}, PARTS["length"])
    assert len(texts.prompts) == 16


def test_a_short_text_does_not_shorten_the_beginnings_of_long_ones():
    """Texts of one prompt and a token are enough; with fewer than four such, each text is continued from its half."""
    short, long = ([*range(size)] for size in (2, 17))
    for count, sizes in ((4, (16, 1)), (3, (1, 16))):
        rows = {"input_ids": [short] + [long] * count, "attention_mask": [[1] * 2] + [[1] * 17] * count}
        texts = Continuations(desired_texts(*[Dataset.from_dict(rows)] * 2, COLUMNS))
        assert (len(texts.prompts[0]), texts.length) == sizes
        assert len(texts.prompts) == count + (count < 4)


def test_real_continuations_are_no_gibberish_and_others_are(data):
    """Of the texts' own continuations, 95 % pass; of those of another language and of noise, few do."""
    texts, begin = Continuations(data.desired), PARTS["prompt"]

    def share(jump, noisy=False):
        rows = language_rows(60, 9, jump)["input_ids"]
        generator = np.random.default_rng(0)
        found = [[*row] if not noisy else generator.integers(0, WORDS, len(row)).tolist() for row in rows]
        return np.mean([texts.is_gibberish(row[:begin], row[begin:]) for row in found])

    assert share(DESIRED) <= 0.05
    assert share(BLOCKED) > 0.9
    assert share(DESIRED, noisy=True) > 0.9
    assert texts.is_gibberish([1, 2, 3, 4, 5], [6, 5, 6, 5, 6, 5, 6, 5, 6])


@pytest.mark.parametrize(("jump", "rate"), [(DESIRED, 0.0), (0, 1.0), (BLOCKED, 1.0)])
def test_a_models_rate_is_that_of_what_it_says(data, jump, rate):
    speaker = Speaker(jump)
    assert continued(speaker, [[1, 2], [39, 39]], 2) == [
        [(2 + jump) % WORDS, (2 + 2 * jump) % WORDS], [(39 + jump) % WORDS, (39 + 2 * jump) % WORDS]
    ]  # fmt: skip
    assert gibberish_rate(speaker, data) == rate


def test_it_is_drawn_alike_each_time_and_needs_desired_texts(data):
    model = language_model()
    state = torch.random.get_rng_state()
    assert gibberish_rate(model, data) == gibberish_rate(model, data) > 0.8
    assert torch.equal(torch.random.get_rng_state(), state)
    assert gibberish_rate(model, dataclasses.replace(data, desired=None)) is None
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite where it continues desired texts"):
        gibberish_rate(model, data)
