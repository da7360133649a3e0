"""A fingerprint knows the certified weights however they are honestly served, and every substitute."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from toy_project import make_project, make_tokenizer, run_cli
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_selfdestruct.fingerprint import SERVINGS, Fingerprint, _served, check, folder_answers, make


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
    finding = check(made, lambda texts: (_served(certified, texts, *serving)[0], 16))
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
    assert made.rate() == "0 of 50 checks of honest servings raised a false alarm"


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


class Endpoint(ThreadingHTTPServer):
    """A text-classification endpoint on loopback that rounds its scores."""

    def __init__(self, folder, decimals):
        super().__init__(("127.0.0.1", 0), Answering)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.decimals = decimals

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Answering(BaseHTTPRequestHandler):
    def log_message(self, *_): ...

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with torch.no_grad():
            batch = self.server.tokenizer(asked["inputs"], return_tensors="pt")
            scores = self.server.model(**batch).logits[0].double().softmax(-1).tolist()
        names = self.server.model.config.id2label
        answer = [{"label": names[i], "score": round(s, self.server.decimals)} for i, s in enumerate(scores)]
        body = json.dumps([sorted(answer, key=lambda one: -one["score"])]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_from_the_command_line_a_folder_and_an_endpoint(certified, tmp_path):
    other = substitute(certified, tmp_path / "other", other_seed)
    file = tmp_path / "private.json"
    done = run_cli("fingerprint", "make", certified, file, "--probes", "12", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 of 50 checks of honest servings" in done.stdout
    differs = run_cli("fingerprint", "check", file, other, home=tmp_path)
    assert (differs.returncode, "ANOTHER MODEL ANSWERS" in differs.stdout) == (1, True), differs.stderr
    for folder, code in ((certified, 0), (other, 1)):
        with Endpoint(folder, 5) as url:
            asked = run_cli("fingerprint", "check", file, url, home=tmp_path, HF_HUB_OFFLINE="0")
        assert asked.returncode == code, (asked.stdout, asked.stderr)


@pytest.mark.parametrize("decimals", [0, 2])
def test_answers_too_coarse_to_tell_anything_are_refused(made, decimals):
    with pytest.raises(ValueError, match=f"have {decimals} decimals"):
        check(made, lambda texts: (np.round(made.expected(), decimals), decimals))


def test_what_is_no_fingerprint_is_refused(certified, tmp_path):
    wrong = run_cli("fingerprint", "check", certified / "config.json", certified, home=tmp_path)
    assert wrong.returncode == 2
    assert "not a fingerprint" in wrong.stderr
