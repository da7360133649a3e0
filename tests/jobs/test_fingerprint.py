"""A fingerprint knows the certified weights however they are honestly served, and every substitute."""

import json

import numpy as np
import pytest
import torch
from loopback_endpoint import LoopbackEndpoint
from toy_project import make_project, make_tokenizer, run_cli
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_selfdestruct.jobs.fingerprint import SERVINGS, Fingerprint, check, folder_answers, make
from hf_selfdestruct.jobs.served import served


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A folder with a classifier and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("certified")
    make_project(folder)
    return folder / "model"


@pytest.fixture(scope="module")
def made(certified):
    return make(certified, probes=24, seed=1)


def substitute(certified, folder, change):
    """The certified model after a change."""
    model = AutoModelForSequenceClassification.from_pretrained(certified)
    changed = change(model)
    (model if changed is None else changed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def tuned(model):
    """Ten small steps of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    rows = torch.randint(4, 40, (8, 12), generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        model(rows, labels=torch.arange(8) % 2).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def rounded(bits):
    """Weights on a grid of so many bits, a scale for each row."""

    @torch.no_grad()
    def change(model):
        for parameter in model.parameters():
            if parameter.dim() == 2:
                scale = parameter.abs().amax(1, keepdim=True).clamp(min=1e-6) / (2 ** (bits - 1) - 1)
                parameter.copy_((parameter / scale).round() * scale)

    return change


def other_seed(model):
    torch.manual_seed(5)
    return type(model)(model.config)


@pytest.mark.parametrize("serving", SERVINGS, ids=str)
def test_honest_serving_is_known(made, certified, serving):
    finding = check(made, lambda texts: (served(certified, texts, *serving)[0], 16))
    assert finding.same
    assert finding.differing == 0


SUBSTITUTES = {
    "other weights": other_seed,
    "ten steps": tuned,
    "int8": rounded(8),
    "int4": rounded(4),
    "half precision": lambda model: model.bfloat16().float(),
}


@pytest.mark.parametrize("name", SUBSTITUTES)
def test_a_substitute_is_known(made, certified, tmp_path, name):
    folder = substitute(certified, tmp_path / "other", SUBSTITUTES[name])
    finding = check(made, folder_answers(folder, made.labels))
    assert not finding.same
    assert finding.difference > 3 * finding.threshold


def test_the_false_alarm_rate_is_counted_on_servings_that_set_no_threshold(made):
    assert (made.false_alarms, made.servings) == (0, 50)
    assert made.largest < made.threshold
    assert made.rate() == "0 of 50 checks of the same weights raised a false alarm"


def test_it_is_read_back(made, tmp_path):
    made.save(tmp_path / "f.json")
    again = Fingerprint.load(tmp_path / "f.json")
    assert again == made
    np.testing.assert_array_equal(again.expected(), made.expected())


def test_secret_probes_differ_each_time(certified):
    one, two = make(certified, probes=8), make(certified, probes=8)
    assert not {*one.probes} & {*two.probes}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"probes": []}, "for each probe"),
        ({"labels": ["a", "b", "c"]}, "for each probe"),
        ({"threshold": 0.0}, "threshold"),
        ({"extra": 1}, "unknown fields: extra"),
        ({"probes": "text"}, "expected a list"),
    ],
)
def test_a_broken_file_is_refused(made, tmp_path, change, why):
    made.save(tmp_path / "f.json")
    raw = json.loads((tmp_path / "f.json").read_text())
    (tmp_path / "f.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(ValueError, match=why):
        Fingerprint.load(tmp_path / "f.json")


def serving(folder, decimals):
    """Answers of the model in a folder, best first, as an endpoint rounds them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.no_grad()
    def answer(text):
        scores = model(**tokenizer(text, return_tensors="pt")).logits[0].double().softmax(-1).tolist()
        found = [{"label": model.config.id2label[i], "score": round(s, decimals)} for i, s in enumerate(scores)]
        return [sorted(found, key=lambda one: -one["score"])]

    return answer


def test_from_the_command_line_a_folder_and_an_endpoint(certified, tmp_path):
    other = substitute(certified, tmp_path / "other", other_seed)
    file = tmp_path / "private.json"
    done = run_cli("fingerprint", "make", certified, file, "--probes", "12", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 of 50 checks of the same weights" in done.stdout
    differs = run_cli("fingerprint", "check", file, other, home=tmp_path)
    assert (differs.returncode, "ANOTHER MODEL ANSWERS" in differs.stdout) == (1, True), differs.stderr
    for folder, code in ((certified, 0), (other, 1)):
        with LoopbackEndpoint(serving(folder, 5)) as server:
            asked = run_cli("fingerprint", "check", file, server.url, home=tmp_path)
        assert asked.returncode == code, (asked.stdout, asked.stderr)


@pytest.mark.parametrize("decimals", [0, 2])
def test_answers_too_coarse_to_tell_anything_are_refused(made, decimals):
    with pytest.raises(ValueError, match=f"have {decimals} decimals"):
        check(made, lambda texts: (np.round(made.expected(), decimals), decimals))


def test_what_is_no_fingerprint_is_refused(certified, tmp_path):
    wrong = run_cli("fingerprint", "check", certified / "config.json", certified, home=tmp_path)
    assert wrong.returncode == 2
    assert "not a fingerprint" in wrong.stderr
