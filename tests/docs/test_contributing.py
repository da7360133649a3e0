"""What CONTRIBUTING.md, the issue forms and the workflow name is there, and each guide is short."""

import re
from functools import cache

import pytest
import yaml
from site_parts import ROOT

from hf_selfdestruct.cli.__main__ import COMMANDS

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SPANS = sorted({*re.findall(r"`([^`\n]+)`", TEXT.replace("```", ""))})
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
GUIDES = ("a kind of task", "a loss", "an attack", "a preset")
MOST_LINES = 15
WORDS = ("ARGS", "PYTHON", "relearn", "files", "tasks", "report", "untrusted_json", "test")  # no names of the source


def section(title):
    (found,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return found


def targets(text):
    return {*re.findall(r"\bmake ((?!it\b)[a-z][a-z-]*)", text)}


def defined(makefile):
    return {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)}


@cache
def source():
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "hf_selfdestruct").rglob("*.py")))


def test_paths_are_there():
    paths = [span for span in SPANS if re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|md|cff)|[\w.-]+(?:/[\w.-]+)+", span)]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not (ROOT / link).exists()] == []


def test_commands_and_targets_are_there():
    assert {"test", "test-fast", "test-lowest", "docs"} <= targets(TEXT) <= defined(MAKEFILE)
    assert {*re.findall(r"hf-selfdestruct (\w+)", TEXT)} <= {*COMMANDS}
    assert all((ROOT / path).is_file() for path in re.findall(r"python (\S+\.py)", TEXT))
    fast = re.search(r"^FAST := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)[1].replace("\\", "").split()
    assert len(fast) > 5
    assert [path for path in fast if not [*ROOT.glob(path)]] == []


def test_names_are_those_of_the_source():
    names = [span for span in SPANS if span.isidentifier() and span not in WORDS]
    assert len(names) > 15
    lost = [name for name in names if not re.search(rf"(?:class|def) {name}\b|^ *{name}\b.*[:=]", source(), re.M)]
    assert lost == []


@pytest.mark.parametrize("title", GUIDES)
def test_a_guide_is_short_and_points_at_a_commit_and_a_file(title):
    body = section(f"Add {title}")
    assert len([line for line in body.splitlines() if line]) <= MOST_LINES
    assert re.search(r"^Model commit: [0-9a-f]{7} \(", body.strip())
    assert "Copy the form of" in body


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_shows(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked) >= 3
    assert all(part["attributes"]["label"] for part in asked)


def test_the_form_for_a_broken_defence_asks_what_the_policy_asks():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "broken_defence.yml").read_text(encoding="utf-8"))
    asked = " ".join(part["attributes"].get("label", "") for part in form["body"])
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("A useful report contains:")[2]
    wanted = re.findall(r"^- \*\*`?([\w. ]+?)`?\*\*", policy.partition("\n## ")[0], re.MULTILINE)
    assert len(wanted) >= 5
    assert [words for words in wanted if words not in asked and words != "Seeds"] == []
    assert "seed" in asked


def test_the_workflow_runs_the_commands_of_the_continuous_integration():
    (workflow,) = (ROOT / ".github" / "workflows").glob("*.yml")
    (job,) = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    run = [step["run"] for step in job["steps"] if "run" in step]
    assert run[-1] == "make ${{ matrix.target }}"
    assert {*job["strategy"]["matrix"]["target"]} == {"test", "test-lowest"} <= defined(MAKEFILE)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("exec make test")
