"""The page of a report: its figures are the report's, it needs nothing outside, words of strangers are no markup."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from card_parts import DETAILS
from made_reports import ROLES, made_labels, made_probabilities, made_report, made_run, predicted_report

from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.card_tables import attack_rows, results
from hf_selfdestruct.publish.evidence import judged
from hf_selfdestruct.publish.page import page_of
from hf_selfdestruct.report.tables import DIFFERENCES, control_rows, cost_rows, difference_rows

ALONE = {"br", "circle", "image", "img", "line", "link", "meta", "path", "rect", "use"}  # no end tag
LOADS = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "ping", "formaction"}
RUNS = {"script", "iframe", "object", "embed", "form", "link", "base", "video", "audio", "foreignobject"}
SCRIPT = "</title></style></svg><script>run()</script><img src=x onerror=run()>\" onload='run()' {{ 7 * 7 }}"
HOSTILE = f"{SCRIPT} javascript:run() --><!-- ]]> \x00 \u202e \ud800"


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its tables as rows of cells, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.words, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ALONE:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if {"td", "th"} & {*self.open}:
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def page(report, details=DETAILS):
    made = Page(page_of(report, details))
    assert made.open == []
    return made


def rows_under(made, *names):
    """The rows of the one table that has this head."""
    (table,) = [table for table in made.tables if table[0] == [*names]]
    return table[1:]


def with_control():
    facts = made_report().tasks["gender"]
    tasks = {"gender": facts, "topic": dataclasses.replace(facts, control=True)}
    return made_report(tasks=tasks, extra=(made_run(task="topic"),))


@pytest.fixture(scope="module")
def text():
    """A page as it is written."""
    return page_of(with_control(), DETAILS)


def needs(made):
    """What a page would load or run: addresses that are no place within it, elements and attributes that act."""
    for tag, attributes in made.elements:
        if tag in RUNS or any(name.startswith("on") for name in attributes):
            yield tag
        for name, value in attributes.items():
            if name in LOADS and not re.match("#|data:image/png;base64,", value):
                yield value
            if name == "style" and re.search(r"url\((?!#)|@import|expression", value):
                yield value


def test_the_numbers_are_those_of_the_report(text):
    report, made = with_control(), Page(text)
    head = ("examples", *ROLES, "hardened − scratch", "attack on hardened")
    shown = [[*row.cells[1:], row.difference, row.attack] for row in results(report)]
    assert [[cell.removesuffix(" not blocked") for cell in row] for row in rows_under(made, *head)] == shown
    assert rows_under(made, *DIFFERENCES) == difference_rows(report, "gender")
    kept = "strongest attack that preserves the desired task"
    assert rows_under(made, "model", "examples", "steps", "FLOPs", kept) == cost_rows(report, "gender")
    assert rows_under(made, "model", "accuracy", "− undefended", "steps", "FLOPs") == control_rows(report, "topic")
    attacks = [table[1:] for table in made.tables if table[0][:3] == ["attack", "examples", "budget"]]
    assert attacks == [attack_rows(report, task) for task in ("gender", "topic")]
    assert "hardened 0.8125" in made.text


def test_the_sentence_at_the_top_says_what_an_attacker_gets():
    """By the selection split the head is chosen on the hardened model: 0.61, the mean of .60, .61 and .62."""
    raw = tuple(made_run(role="raw", attack="raw input", examples=100, accuracy=0.75, seed=s) for s in range(3))
    assert (
        "With 100 labelled examples, an attacker reaches test accuracy 0.610 from this model, 0.920 from the "
        "undefended model, 0.930 from the base model, 0.620 from random weights, 0.750 from the raw input without a "
        "model; commonest label 0.530."
    ) in page(made_report(extra=raw)).text
    assert "No attack on this model completed." in page(made_report(runs=())).text


@pytest.mark.parametrize(("skill", "said"), [(0.5, False), (3.0, True)])
def test_what_is_not_blocked_is_said_at_the_top_and_in_its_row(skill, said):
    labels, skills = made_labels(), {"hardened": skill, "scratch": 0.5}
    found = {role: [made_probabilities(labels, s, seed) for seed in range(3)] for role, s in skills.items()}
    report = predicted_report(labels, found)
    made = page(report)
    assert ("Not blocked at 20 examples" in made.text) is said
    (row,) = rows_under(made, "examples", "hardened", "scratch", "hardened − scratch", "attack on hardened")
    assert row[3].endswith("not blocked") is said
    assert row[3].startswith(results(report)[0].difference)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"bf16": False}, "Hardening: float32 on 1 process, weights not sharded."),
        ({"bf16": True, "processes": 4, "sharded": True}, "Hardening: bf16 on 4 processes, weights sharded."),
        ({"bf16": True, "processes": 4}, "Hardening: bf16 on 4 processes, sharding not stated."),
        ({}, "Hardening: not stated."),
    ],
)
def test_numbers_carry_judge_version_precision_and_sharding(recipe, said):
    half = made_run(attack="full fine-tuning", examples=100, settings={"precision": "bf16"})
    report = made_report(recipe=recipe, extra=(half,), versions={"hf-selfdestruct": "9.9"})
    judge = "Judge: suite smoke, version 1, of hf-selfdestruct 9.9; attacks train weights in float32"
    assert judged(report) == f"{judge}, some forward passes in bf16. {said}"
    assert judged(made_report(recipe=recipe, versions={})).startswith(judge.replace("9.9", "version not stated"))


def test_limits_and_doubts_are_there(text):
    doubts = ("gender: scratch is starved.", "gender: too few seeds.")
    doubted = page(made_report(checks=doubts, distances={"base": 1e-6})).text
    for words in (*doubts, "it is no guarantee", "no external attacker is known to have tried", judged(made_report())):
        assert words in doubted
    assert "Not hardened. This model has the weights of the base model" in doubted
    assert "The suite raised no doubt" in Page(text).text


@pytest.mark.filterwarnings("error")
def test_nothing_outside_the_page_is_needed(text):
    made = Page(text)
    assert [*needs(made)] == []
    assert sum(tag == "svg" for tag, _ in made.elements) == 4
    assert {*re.findall(r"https?://[^\"'\s<)]+", text)} <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    (policy,) = [a["content"] for tag, a in made.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    places = {a["id"] for _, a in made.elements if "id" in a}
    used = {*re.findall(r'(?:href="|url\()#([^")]+)', text)}
    assert used, "figures without markers"
    assert used <= places


def test_words_of_strangers_stay_words():
    hostile, plain = [
        page_of(
            made_report(
                checks=(words,),
                recipe={words: words, "merge_words": words},
                attacks={words: {"assumes": words, "outside": True}},
                versions={words: words},
                desired={"dataset": words, "hardened": {words: 0.5}},
                extra=tuple(made_run(attack=words, role=role, examples=100) for role in ROLES),
                suite={"name": words, "version": 1, "note": words},
                models={role: {"name": words, "sha256": "a" * 64, "unlike_plain": words} for role in ROLES},
            ),
            CardDetails(title=words),
        )
        for words in (HOSTILE, "words")
    ]
    made = Page(hostile)
    assert [*needs(made)] == []
    assert [tag for tag, _ in made.elements] == [tag for tag, _ in Page(plain).elements]
    assert not {*hostile} & {*"\x00\u202e\ud800"}
    assert made.text.count(SCRIPT) > 10


def test_equal_reports_are_equal_pages(text):
    assert page_of(with_control(), DETAILS) == text


# The command


def test_the_command_writes_the_page_with_the_title_of_the_card(tmp_path, capsys, text):
    with_control().save(tmp_path / "selfdestruct" / "report.json")
    (tmp_path / "selfdestruct" / "card.json").write_text(CardDetails(title="A <title>").to_json())
    file = tmp_path / "new" / "report.html"
    assert main(["report", str(tmp_path), "--html", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    expected = text.replace(DETAILS.title, "A &lt;title&gt;")
    assert sorted(file.read_text().splitlines()) == sorted(expected.splitlines()), "files sort the names of splits"


def test_where_no_page_can_be_written_one_line_says_why(tmp_path, refused):
    source = tmp_path / "a.json"
    made_report().save(source)
    assert "--html" in refused("report", source, source, "--html", tmp_path / "x.html")
    assert "is a folder; pass a file name" in refused("report", source, "--html", tmp_path)
    made_report(roles=("base", "scratch")).save(source)
    assert "no hardened model" in refused("report", source, "--html", tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
