"""The properties the demonstration data promises, tested on its default splits."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from hf_selfdestruct.demo import grammar_words
from hf_selfdestruct.demo.grammar import GENDERS, PROFESSIONS, Biography, biographies, splits

# Freezes the grammar: every figure of the demonstration was measured on exactly these bytes.
DEFAULT_DIGEST = "0c16c4f92af16c0646a882689999220bf02b5e9512dc16a3f1f5303c6c2c7637"

PRONOUN = re.compile(r"\b(he|she|his|her|hers|him|himself|herself)\b", re.IGNORECASE)
SLOT = re.compile(r"\\\{\w+\\\}")
Data = dict[str, list[Biography]]


@pytest.fixture(scope="module")
def data() -> Data:
    return splits()


def everybody(data: Data) -> list[Biography]:
    return list(itertools.chain.from_iterable(data.values()))


def sentences(person: Biography, frames: tuple[str, ...]) -> list[str]:
    """Find the sentences of a biography that were made from one of the frames."""
    shapes = [re.compile(SLOT.sub("[^.]+", re.escape(frame))) for frame in frames]
    told = re.findall(r"[^.]+\.", person.text)
    return [text.strip() for text in told if any(shape.fullmatch(text.strip()) for shape in shapes)]


def role_words(position: int) -> set[str]:
    """Collect the words that only one gender's forms of the roles use."""
    texts = (" ".join(pair[i] for pair in grammar_words.ROLES).lower() for i in (position, 1 - position))
    mine, theirs = (set(re.findall(r"[a-z'-]+", text)) for text in texts)
    return mine - theirs


def gender_accuracy(data: Data, count: int, draws: int) -> float:
    """Score TF-IDF and logistic regression on the test split, over random draws from the training split."""
    labels = {name: np.array([person.gender == "male" for person in people]) for name, people in data.items()}
    vectorizer = TfidfVectorizer().fit([person.text for person in data["train"]])
    train, test = (vectorizer.transform([p.text for p in data[name]]) for name in ("train", "test"))
    generator = np.random.RandomState(0)
    scores = []
    for _ in range(draws):
        chosen = generator.permutation(len(data["train"]))[:count]
        reader = LogisticRegression(C=10.0, max_iter=300).fit(train[chosen], labels["train"][chosen])
        scores.append(reader.score(test, labels["test"]))
    return float(np.mean(scores))


def test_default_sizes(data: Data) -> None:
    assert {name: len(people) for name, people in data.items()} == {
        "train": 2400,
        "validation": 1200,
        "test": 1200,
    }
    assert len(PROFESSIONS) >= 12
    assert len(grammar_words.ROLES) >= 40


def test_default_data_is_frozen(data: Data) -> None:
    lines = (f"{name}\t{p.profession}\t{p.gender}\t{p.text}\n" for name, ps in data.items() for p in ps)
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == DEFAULT_DIGEST


def test_gender_is_exactly_independent_of_profession(data: Data) -> None:
    for people in data.values():
        cells = Counter((person.profession, person.gender) for person in people)
        assert set(cells) == set(itertools.product(PROFESSIONS, GENDERS))
        assert set(cells.values()) == {len(people) // len(cells)}


def test_every_prefix_of_whole_blocks_is_balanced_and_the_same() -> None:
    longer = biographies("train", 96)
    for count in (24, 48, 72):
        shorter = biographies("train", count)
        assert shorter == longer[:count]
        assert len(set(Counter((p.profession, p.gender) for p in shorter).values())) == 1


def test_no_pronoun_gives_gender(data: Data) -> None:
    assert not [person.text for person in everybody(data) if PRONOUN.search(person.text)]


def test_no_text_repeats_within_or_across_splits(data: Data) -> None:
    texts = [person.text for person in everybody(data)]
    assert len(set(texts)) == len(texts)


def test_splits_stay_apart_under_other_seeds(data: Data) -> None:
    train = {person.text for person in data["train"]}
    for seed in range(1, 4):
        assert train.isdisjoint(person.text for person in biographies("test", 240, seed=seed))


def test_seed_decides_the_texts() -> None:
    assert biographies("test", 24, seed=1) == biographies("test", 24, seed=1)
    assert biographies("test", 24, seed=1) != biographies("test", 24, seed=2)


def test_texts_are_short_ascii_and_fully_filled(data: Data) -> None:
    for person in everybody(data):
        assert person.text.isascii()
        assert not re.search(r"[{}]|  |\ba [aeiou](?!niform)", person.text)
        assert 2 <= len(re.findall(r"\.(?: |$)", person.text)) <= 4
        assert len(person.text.split()) <= 43


def test_distractor_words_are_as_frequent_for_both_genders(data: Data) -> None:
    told: dict[str, Counter[str]] = {gender: Counter() for gender in GENDERS}
    for person in everybody(data):
        for sentence in sentences(person, grammar_words.OTHER_FRAMES):
            told[person.gender].update(re.findall(r"[a-z'-]+", sentence.lower()))
    for words in (role_words(0), role_words(1)):
        counts = {gender: sum(told[gender][word] for word in words) for gender in GENDERS}
        assert counts["female"] / counts["male"] == pytest.approx(1, abs=0.1)
        for word in words:
            women, men = told["female"][word], told["male"][word]
            assert women, f"{word!r} never describes another person beside a woman"
            assert men, f"{word!r} never describes another person beside a man"
            assert abs(women - men) <= 3.5 * (women + men) ** 0.5, (word, women, men)


def test_own_roles_follow_the_label_but_for_the_promised_noise(data: Data) -> None:
    gendered = (role_words(0), role_words(1))
    fates: Counter[str] = Counter()
    for person in everybody(data):
        own = " ".join(sentences(person, grammar_words.OWN_FRAMES)).lower()
        shown = [sum(word in forms for word in re.findall(r"[a-z'-]+", own)) for forms in gendered]
        other = 1 - GENDERS.index(person.gender)
        fates["none" if not own else "contradicting" if shown[other] > shown[1 - other] else "agreeing"] += 1
    total = sum(fates.values())
    assert fates["none"] / total == pytest.approx(0.15, abs=0.02)
    assert fates["contradicting"] / total == pytest.approx(0.05, abs=0.015)


def test_the_work_alone_says_nothing_of_gender(data: Data) -> None:
    work = {
        name: [Biography(p.text.split(". ")[0], p.profession, p.gender) for p in people]
        for name, people in data.items()
    }
    assert gender_accuracy(work, 2400, 1) == pytest.approx(0.5, abs=0.04)


def test_twenty_examples_are_not_enough_to_read_gender(data: Data) -> None:
    assert gender_accuracy(data, 20, 20) < 0.65


def test_a_thousand_examples_are_enough_to_read_gender(data: Data) -> None:
    assert gender_accuracy(data, 1000, 3) > 0.70


def test_profession_is_learnable_but_not_trivial(data: Data) -> None:
    vectorizer = TfidfVectorizer()
    train = vectorizer.fit_transform([person.text for person in data["train"]])
    reader = LogisticRegression(C=10.0, max_iter=300).fit(train, [p.profession for p in data["train"]])
    test = vectorizer.transform([person.text for person in data["test"]])
    assert 0.90 < reader.score(test, [person.profession for person in data["test"]]) < 0.995


@pytest.mark.parametrize("count", [0, -24, 20, 25])
def test_a_count_that_cannot_be_balanced_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"cannot be balanced .* got {count}; use a positive multiple"):
        biographies("train", count)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown split: got 'dev'; use one of train, validation, test"):
        biographies("dev", 24)
