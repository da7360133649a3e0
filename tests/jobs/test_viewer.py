"""The viewer: a report in a frame that can do nothing, what was verified above it, and nothing else of this machine."""

import functools
import json
from html.parser import HTMLParser

import pytest
from loopback_repos import FIRST, Commit, Repo
from made_reports import ROLES, made_report, made_run
from toy_hub import talk_to

from hf_selfdestruct.jobs import viewer
from hf_selfdestruct.jobs.verification import verify
from hf_selfdestruct.jobs.viewer import FAILED, NOT_VERIFIED, PASSED, shown
from hf_selfdestruct.publish import hub as hub_client
from hf_selfdestruct.publish.card import details_of
from hf_selfdestruct.publish.layout import CARD, MANIFEST, REPORT
from hf_selfdestruct.publish.page import page_of
from hf_selfdestruct.report.report import AttackReport

HOSTILE = '</p></iframe><script>run()</script>"\'><img src=x onerror=run()> srcdoc="x" ${run()} {{ 7 * 7 }} \x00 &quot;'


class Shown(HTMLParser):
    """What a browser makes of HTML: its elements, its text, and the page in its frame."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.page = [], "", None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.page = found.pop("srcdoc", self.page)
        self.elements.append((tag, {name: value for name, value in found.items() if name != "title"}))

    def handle_data(self, data):
        self.text += data


def opened(folder):
    return Shown(shown(str(folder), [str(folder)]))


def page_in(folder):
    return page_of(AttackReport.load(folder / REPORT), details_of(folder))


# What is shown


def test_the_frame_holds_the_page_of_the_report_and_has_no_right(folder):
    found = opened(folder)
    assert found.page == page_in(folder)
    assert "0.610 from this model" in found.page
    (frame,) = [attributes for tag, attributes in found.elements if tag == "iframe"]
    assert frame["sandbox"] is None
    assert not {"src", "allow"} & frame.keys()


def test_what_verify_says_stands_above_the_report(folder, monkeypatch):
    found = opened(folder)
    assert FAILED in found.text, "its suite is not shipped"
    assert all(line in found.text for line in verify(str(folder)).lines())
    monkeypatch.setattr(viewer, "verify", functools.partial(verify, files_only=True))
    found = opened(folder)
    assert PASSED in found.text
    assert "not forgery" in found.text
    (folder / "tokenizer.json").write_text("[]")
    found = opened(folder)
    assert FAILED in found.text
    assert "tokenizer.json: changed" in found.text
    assert found.page == page_in(folder), "a reader decides"


def test_a_report_without_manifest_or_a_manifest_without_report_is_said_to_be_so(folder):
    (folder / MANIFEST).unlink()
    found = opened(folder)
    assert NOT_VERIFIED in found.text
    assert MANIFEST in found.text
    assert found.page == page_in(folder)
    (folder / REPORT).write_text("{")
    found = opened(folder)
    assert "The report cannot be shown" in found.text
    assert found.page is None


def test_words_of_strangers_add_no_element(folder, tmp_path):
    seen = {}
    for number, words in enumerate(("words", HOSTILE)):
        made = made_report(
            checks=(words,),
            recipe={words: words},
            models={role: {"name": words, "sha256": "a" * 64, "unlike_plain": words} for role in ROLES},
            extra=tuple(made_run(attack=words, role=role, examples=100) for role in ROLES),
        )
        made.save(folder / REPORT)
        place = tmp_path / f"{number}{words}".replace("/", "_").replace("\x00", "")
        folder.rename(place)
        (place / f"{'<script>' * number}x.txt").write_text("")
        manifest = json.loads((place / MANIFEST).read_text())
        (place / MANIFEST).write_text(json.dumps({**manifest, "hf_selfdestruct": words}))
        seen[words] = opened(place)
        folder = place
    plain, hostile = seen["words"], seen[HOSTILE]
    assert [tag for tag, _ in hostile.elements] == ["div", "strong", "p", "iframe"]
    assert hostile.elements == plain.elements, "attributes too"
    assert "onerror" in hostile.text
    assert "<script>run()" not in hostile.page


# What is opened


def test_a_folder_that_was_not_named_is_not_touched(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(viewer, "fetched_evidence", lambda name: pytest.fail(f"asked the Hub for {name}"))
    for source in (str(folder), "hardened", "./hardened", "../etc", "/etc/passwd", "a/b/c", "hf:///etc", "\x00"):
        found = Shown(shown(source))
        assert "Not opened" in found.text, source
        assert "is not a repository" in found.text, source
        assert found.page is None
    assert shown(" ") == ""


@pytest.fixture
def published(hub, folder, monkeypatch, tmp_path):
    """The folder on a Hub that this process talks to."""
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "README.md", MANIFEST, REPORT, CARD)}
    hub.repos["tester/hardened"] = Repo(branches={"main": [FIRST, Commit("c" * 40, "all", files, ())]})
    hub.repos["tester/plain"] = Repo()
    talk_to(hub, monkeypatch, tmp_path)
    return hub


@pytest.mark.parametrize("source", ["tester/hardened", " hf://tester/hardened\n"])
def test_of_a_repository_two_files_are_fetched_and_nothing_is_verified(published, folder, source):
    found = Shown(shown(source))
    assert NOT_VERIFIED in found.text
    assert f"tester/hardened@{'c' * 40}: weights were not downloaded; their hashes were not checked" in found.text
    assert found.page == page_in(folder)
    fetched = {request.partition(f"{'c' * 40}/")[2] for request in published.requests if "/resolve/" in request}
    assert fetched == {REPORT, CARD}


def test_a_repository_that_cannot_be_opened_says_why(published, monkeypatch):
    assert f"tester/plain has no {REPORT}" in Shown(shown("tester/plain")).text
    assert "tester/nothing" in Shown(shown("tester/nothing")).text
    monkeypatch.setattr(hub_client, "MOST_EVIDENCE", 10)
    assert "bytes; the limit is 10" in Shown(shown("tester/hardened")).text
    assert not [request for request in published.requests if "/resolve/" in request]
    published.down_from = 1
    assert "could not reach the Hub" in Shown(shown("tester/hardened")).text
