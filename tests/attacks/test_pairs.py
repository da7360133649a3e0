"""Pairs of texts: probed apart, and compared by their words alone."""

import numpy as np
import pytest
import torch
from pair_cases import CLOSES, OPENS, collate, pair_row, split_of

from hf_selfdestruct.attacks import (
    AttackData,
    AttackSuite,
    Entry,
    HeadOnly,
    PairProbe,
    PairProbedFirst,
    Split,
    Target,
    Trial,
    named_suite,
)
from hf_selfdestruct.attacks.methods.pair_probe import differences
from hf_selfdestruct.attacks.methods.pair_words import Overlap, of_pairs, two_texts
from hf_selfdestruct.attacks.methods.references import RawInput, raw_input


@pytest.fixture
def pairs():
    train, selection, test = (split_of(n, seed, shared=4) for seed, n in enumerate((160, 60, 80)))
    return AttackData("pairs", 2, train, selection, test, collate)


def best_of(attack, target, data, examples=160):
    runs = [attack.run(Trial(target, data, examples, 0, settings)) for settings in attack.space()]
    return max(runs, key=lambda run: run.selection.merit)


def test_two_texts_of_a_row():
    row = pair_row([7, 8], [9])
    assert two_texts(row) == ([OPENS, 7, 8, CLOSES], [OPENS, 9, CLOSES])
    assert of_pairs(Split([row], np.zeros(1)))
    whole = {"input_ids": [OPENS, 7, CLOSES], "token_type_ids": [0, 0, 0]}
    assert two_texts(whole) == ([OPENS, 7, CLOSES], [OPENS])
    assert not of_pairs(Split([whole], np.zeros(1)))
    for left in (False, True):
        padded = collate([row, pair_row([7, 8, 11], [9, 12])], left=left)
        first = {name: values[0].tolist() for name, values in padded.items()}
        assert two_texts(first) == two_texts(row), "padding is no text"


def test_differences_do_not_depend_on_the_order_or_the_lengths_of_vectors():
    generator = np.random.default_rng(0)
    a, b = torch.tensor(generator.normal(size=(2, 5, 4)))
    found = differences(a, b)
    np.testing.assert_allclose(found, differences(3 * b, a), atol=1e-12)
    assert found.shape == (5, 9)
    cosines = [x @ y / x.norm() / y.norm() for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found[:, -1], cosines)


def test_encoded_apart_a_model_shows_what_a_probe_of_both_joined_does_not(target, pairs):
    apart = best_of(PairProbe(strengths=(0.01, 0.1)), target, pairs)
    joined = best_of(HeadOnly(every_layer=True, strengths=(0.01, 0.1)), target, pairs)
    assert apart.test.accuracy > 0.85
    assert joined.test.accuracy < apart.test.accuracy - 0.15


def test_words_alone_show_what_the_texts_share(pairs):
    found = best_of(RawInput(), Target("raw", ""), pairs)
    assert found.test.accuracy > 0.85
    nothing = {name: split_of(n, 7 + n, shared=0) for name, n in (("train", 160), ("selection", 60), ("test", 80))}
    blind = AttackData("pairs", 2, *nothing.values(), collate)
    assert best_of(RawInput(), Target("raw", ""), blind).test.accuracy < 0.7


def test_overlap_counts_what_is_shared():
    rows = raw_input(Split([pair_row([7, 8, 9], [9, 8, 11]), pair_row([7, 8], [12, 13])], np.zeros(2)))
    model = Overlap().fit(rows)
    shared = model._scaler.inverse_transform(model.transform(rows))
    assert shared[:, 1].tolist() == [2, 0]
    np.testing.assert_allclose(shared[:, 2], [2 / 6, 0])  # of the tokens of either, what opens and closes included
    assert 0 < shared[0, 0] < 1
    assert shared[1, 0] == 0


def test_suites_probe_pairs_only_where_rows_are_pairs(target, pairs, readable):
    suite = AttackSuite("own", 1, (Entry(HeadOnly(), (None,)), Entry(PairProbe(), (None,))))
    names = {has: [attack.name for attack, _ in suite.plan(100, frozenset(has))] for has in ((), ("pairs",))}
    assert names == {(): ["head only"], ("pairs",): ["head only", "pair probe"]}
    assert of_pairs(pairs.train)
    assert not of_pairs(readable.train)


@pytest.mark.parametrize("name", ["glance", "quick", "default", "adaptive", "full"])
def test_shipped_suites_attack_pairs_as_pairs_and_other_tasks_as_before(name):
    pairs, others = (
        [attack for attack, _ in named_suite(name).plan(1000, frozenset({"desired", "sibling", *of}))]
        for of in (("pairs",), ())
    )
    found = {attack.name.removesuffix(" with options") for attack in pairs if attack not in others}
    expected = {"pair probe", "pair probe, then fine-tuning"}
    assert found == expected
    assert [attack for attack in pairs if attack in others] == others
    assert "desired task" not in PairProbedFirst().assumes
    assert "desired task" in PairProbedFirst(prelude=10).assumes
