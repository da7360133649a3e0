"""Whatever is changed in reports, manifests and configurations is read or refused."""

import contextlib
import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_reports import made_report

from hf_selfdestruct.card import render
from hf_selfdestruct.config import load_config
from hf_selfdestruct.details import CardDetails
from hf_selfdestruct.manifest import MANIFEST, problems
from hf_selfdestruct.report import AttackReport

INPUTS = 300  # tried of each kind in every run of the tests
FUZZED = settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


def paths(content, place=()):
    """Places of all values in parsed JSON."""
    yield place
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from paths(content[key], (*place, key))


def mutated(draw, content):
    """Parsed JSON with another value in one place, or one place gone."""
    content = json.loads(json.dumps(content))
    places = [place for place in paths(content) if place]
    *upper, last = draw(st.sampled_from(places))
    held = content
    for key in upper:
        held = held[key]
    if draw(st.booleans()):
        held[last] = draw(JSON)
    else:
        del held[last]
    return content


@FUZZED
@given(st.data())
def test_any_change_of_a_report_is_read_or_refused(data):
    text = json.dumps(mutated(data.draw, json.loads(made_report().to_json())))
    try:
        report = AttackReport.from_json(text)
        render(report, CardDetails())
    except ValueError:
        return
    assert AttackReport.from_json(report.to_json()) == report


@FUZZED
@given(st.one_of(st.text(), JSON.map(lambda value: json.dumps(value)), st.binary().map(lambda b: b.decode("latin1"))))
@example("[" * 100_000)
@example('{"runs": 1e999}')
def test_any_text_is_no_report_or_one(text):
    with contextlib.suppress(ValueError):
        AttackReport.from_json(text)


@FUZZED
@given(st.data())
def test_any_change_of_a_manifest_is_found_or_harmless(original, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        import shutil

        shutil.copytree(original, folder)
    genuine = json.loads((original / MANIFEST).read_text())
    changed = mutated(data.draw, genuine)
    (folder / MANIFEST).write_text(json.dumps(changed))
    try:
        found = problems(folder)
    except ValueError:
        return
    assert found or {n: f["sha256"] for n, f in changed["files"].items()} == {
        n: f["sha256"] for n, f in genuine["files"].items()
    }


CONFIG = {
    "model": "m",
    "data": {"path": "p", "text_column": "t", "label_column": "l", "max_length": 8},
    "blocked_tasks": [{"name": "a", "label_column": "b"}],
    "training": {"max_steps": 2, "method": "mlac", "use_cpu": True},
    "card": {"title": "x", "gate": {"mode": "auto"}, "release": {"stages": ["one"]}},
}


@FUZZED
@given(st.data())
def test_any_change_of_a_configuration_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(json.dumps(mutated(data.draw, CONFIG)))
    try:
        load_config(path)
    except (ValueError, TypeError):
        return
