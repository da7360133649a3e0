"""JSON from strangers is read strictly."""

import json

import pytest

from hf_selfdestruct.untrusted_json import MOST_DEPTH, parse_json


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate name 'c'"),
        ("[NaN]", "NaN is not a finite number"),
        ("[Infinity]", "Infinity is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_readers_would_read_differently_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_plain_json_is_read_as_ever():
    value = {"a": [1, 2.5, None, True, {"b": "é"}], "c": {}}
    assert parse_json(json.dumps(value)) == value
    deepest = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json(deepest) == json.loads(deepest)


def test_infinities_only_where_they_are_asked_for():
    assert parse_json("[-Infinity]", infinite=True) == [float("-inf")]
    large = int(1e30)  # of a tokenizer that has no greatest length
    assert parse_json(str(large), infinite=True) == large
    for text, why in (("[NaN]", "NaN"), ("9" * 5000, "digits")):
        with pytest.raises(ValueError, match=why):
            parse_json(text, infinite=True)
    with pytest.raises(ValueError, match=r"the number .* is too large"):
        parse_json(str(large))
