"""Whatever an endpoint answers or a fingerprint's file holds is read or refused."""

import contextlib
import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
from test_fuzzed import FUZZED

from hf_selfdestruct.endpoint import _scores
from hf_selfdestruct.fingerprint import Fingerprint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["label", "score"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["label", "score", "yes"]), inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"label": st.text(max_size=3), "score": inner}), max_size=3)
    ),
    max_leaves=12,
)


@FUZZED
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_probabilities_or_one_line(content):
    try:
        found = _scores(content, "https://host")
    except ConnectionError as error:
        line = str(error)
        assert line.isprintable()
    else:
        assert all(0 <= score <= 1 for score in found.values())


@FUZZED
@given(st.fixed_dictionaries({field.name: JSON for field in dataclasses.fields(Fingerprint)}) | JSON)
def test_any_file_is_a_fingerprint_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(ValueError):
        Fingerprint.load(path)
