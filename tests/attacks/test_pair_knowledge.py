"""What anybody knows of English, of pairs of texts: a signal that no word of the examples carries over to the test."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pair_cases import CLOSES, OPENS, pair_row
from pair_cases import collate as without_tokenizer

from hf_selfdestruct.attacks import AttackData, Split, Target, Trial
from hf_selfdestruct.attacks.methods.english import KINDS, continues, kinds, stem, topics
from hf_selfdestruct.attacks.methods.pair_knowledge import Likeness, signs
from hf_selfdestruct.attacks.methods.references import RawInput
from hf_selfdestruct.attacks.methods.tamper import NotApplicable

ALONE = sorted({word: of for word, of in topics().items() if len(of) == 1})  # words of a single topic
FIRST = OPENS + 10  # number of the first word


class Tokenizer:
    """Words by number, and nothing for what opens and closes an input."""

    def decode(self, tokens, *, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(ALONE[token - FIRST] for token in tokens if token not in (OPENS, CLOSES))


def topic_pairs(count, seed, part):
    """Pairs of four words each, of one topic (1) or two; each part has words of its own."""
    generator = np.random.default_rng(seed)
    by_topic = {}
    for i, word in enumerate(ALONE):
        by_topic.setdefault(min(topics()[word]), []).append(FIRST + i)
    lists = [of[part::3] for of in by_topic.values() if len(of) >= 24]
    rows, labels = [], generator.integers(0, 2, count)
    for label in labels.tolist():
        one, two = generator.choice(len(lists), 2, replace=False)
        words = generator.permutation(lists[one])
        second = words[4:8] if label else generator.permutation(lists[two])[:4]
        rows.append(pair_row(words[:4].tolist(), second.tolist()))
    return Split(rows, labels)


@pytest.fixture
def related():
    splits = [topic_pairs(n, seed, seed) for seed, n in enumerate((100, 80, 200))]
    return AttackData("related", 2, *splits, SimpleNamespace(tokenizer=Tokenizer()))


def chosen(attack, data, examples):
    runs = [attack.run(Trial(Target("raw", ""), data, examples, 0, settings)) for settings in attack.space()]
    return max(runs, key=lambda run: run.selection.merit).test.accuracy


def test_a_topic_in_common_is_found_without_a_word_in_common_and_from_few_examples(related):
    assert chosen(RawInput(), related, 100) < 0.65, "no word of the test rows stands in the examples"
    assert chosen(RawInput(pairs=True), related, 100) > 0.8
    assert chosen(RawInput(pairs=True), related, 20) > 0.75
    shuffled = np.random.default_rng(5).permutation(related.test.labels)
    blind = replace(related, test=Split(related.test.features, shuffled), memory={})
    assert abs(chosen(RawInput(pairs=True), blind, 100) - 0.5) < 0.15


def test_only_pairs_whose_tokenizer_is_known_are_read(related):
    attack, plain = RawInput(pairs=True), RawInput()
    known = [settings for settings in attack.space() if settings not in plain.space()]
    assert {settings["classifier"] for settings in known} == {"likeness", "kinds of likeness"}
    assert all(settings in attack.space() for settings in plain.space())
    blind = replace(related, collate=without_tokenizer, memory={})
    with pytest.raises(NotApplicable, match="DataCollatorWithPadding"):
        attack.run(Trial(Target("raw", ""), blind, 20, 0, known[0]))


@pytest.mark.parametrize(
    ("text", "found"),
    {
        "She was born in 1902, in Peru.": {"she", "past", "year", "number", "name"},
        'It is big and they can see "us".': {"it", "present", "they", "possible", "quoted"},
        "Blue bread": set(),
    }.items(),
)
def test_kinds_of_words(text, found):
    assert {name for name, has in zip(KINDS, kinds(text), strict=True) if has} == found


def test_what_continues_a_text_and_what_begins_one():
    begins, goes_on = "A whale is a large animal of the sea.", "It eats krill."
    assert all(continues(goes_on) >= continues(begins))
    assert continues("It eats kri")[2] > continues(goes_on)[2], "cut short"
    assert stem("orbiting") == stem("orbits") == "orbit"
    assert all(re.fullmatch(r"[a-z]+", word) for word in topics())


def test_features_are_standardised_and_a_sign_that_never_changes_says_nothing():
    texts = ["The moon orbits a planet.", "He was a king.", "She became queen.", "A star is hot.", "He died."]
    rows = np.stack([signs(a, b) for a in texts for b in texts])
    model = Likeness().fit(rows)
    found, whole = model.transform(rows), Likeness(summed=True).fit_transform(rows)
    np.testing.assert_allclose(found[:, :3].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found[:, :2].std(axis=0), 1)
    np.testing.assert_allclose(found[:, :3].sum(axis=1, keepdims=True), whole)
    assert not found[:, 3 + [*KINDS].index("quoted")].any(), "no text has quotes"
    moon, star, king = texts[0], texts[3], texts[1]
    assert signs(moon, star)[0] > signs(moon, king)[0] == 0
    he = 3 + [*KINDS].index("he")
    row = {pair: model.transform(signs(*pair)[None])[0, he] for pair in ((king, texts[4]), (king, texts[2]))}
    assert row[king, texts[4]] > 0 > row[king, texts[2]], "two of one person, or of two"
