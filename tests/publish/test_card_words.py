"""The head, the words and the folder of a card, hostile values among them."""

import dataclasses
import json
import re

import pytest
import yaml
from card_parts import DETAILS, body_of, cells, section, tables
from huggingface_hub import ModelCard
from made_reports import ROLES, made_report, made_run

from hf_selfdestruct.publish.card import render, render_folder
from hf_selfdestruct.publish.card_details import CardDetails, Gate, ReleaseConsiderations
from hf_selfdestruct.publish.evidence import BEATEN, BEATEN_BEFORE, BEATEN_ON_PAIRS, UNTRIED, judge_limits
from hf_selfdestruct.report.report import AttackReport

# YAML head


def test_head_is_valid_hub_metadata():
    card = render(made_report(), DETAILS)
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "google-bert/bert-base-uncased"
    assert head["datasets"] == ["bios/neutral"]
    assert head["language"] == ["en"]
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-classification"
    assert "hf_selfdestruct" in head["tags"]
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)
    assert result.task_type == "text-classification"
    assert result.dataset_type == "bios/neutral"
    assert ModelCard(card).data.model_name == "Tiny BERT, gender blocked"


def test_head_claims_nothing_that_was_not_stated_or_measured():
    card = render(made_report(desired={}), CardDetails())
    head = yaml.safe_load(card.split("---\n")[1])
    assert not {"model-index", "license", "base_model", "datasets", "language"} & set(head)
    assert ModelCard(card).data.eval_results is None


def test_head_survives_hostile_words():
    words = CardDetails(title='x"\n---\n: {{ 7*7 }} <b>', license="a: b", base_model="- y", language=("no",))
    head = ModelCard(render(made_report(), words)).data
    assert head.license == "a: b"
    assert head.language == ["no"], "YAML reads a bare `no` as false"
    assert head.base_model == "- y"


# Words


def test_the_sentence_about_adaptive_attack_is_always_there():
    for details in (DETAILS, CardDetails()):
        words = " ".join(render(made_report(), details).replace("\n>", " ").split())
        assert "No known post-training defence has survived adaptive attack." in words
        assert "it is no guarantee" in words


def test_doubts_are_printed():
    doubts = ("gender: scratch is starved.", "gender: too few seeds.")
    text = section(render(made_report(checks=doubts), DETAILS), "Doubts raised by the suite")
    assert all(f"- {doubt}\n" in text for doubt in doubts)
    assert "The suite raised no doubt" not in text
    assert "The suite raised no doubt" in render(made_report(), DETAILS)


def test_the_users_words_are_printed_or_not_stated():
    release = ReleaseConsiderations(
        ("profiles",), ("weights",), ("fame",), ("minors", "others"), ("first", "then"), "ask", "a lab", "on request"
    )
    stated = dataclasses.replace(DETAILS, release=release, gate=Gate("manual"))
    text = section(render(made_report(), stated), "Release considerations")
    for words in (DETAILS.intended_use, DETAILS.contact, DETAILS.release_plan, DETAILS.license, "minors; others"):
        assert words in text
    for field in dataclasses.fields(release):
        said = getattr(release, field.name)
        assert f"| {said if isinstance(said, str) else '; '.join(said)} |" in text
    assert "users approved by the publisher" in text
    assert "Not stated" not in text
    empty = section(render(made_report(), CardDetails()), "Release considerations")
    (listed,) = re.findall(r"^Not stated: (.*)\.$", empty, flags=re.MULTILINE)
    assert len(listed.split("; ")) == 4 + len(dataclasses.fields(release))
    assert "| recipe | not stated |" in render(made_report(recipe={}), CardDetails())


def test_release_considerations_and_gate_are_in_the_head_where_stated():
    stated = CardDetails.from_dict(
        {"release": {"affected": "minors", "takedown": "on request"}, "gate": {"mode": "auto"}}
    )
    head = yaml.safe_load(render(made_report(), stated).split("---\n")[1])
    assert head["release_considerations"] == {"affected": ["minors"], "takedown": "on request"}
    assert "gender" in head["extra_gated_prompt"]
    assert "checkbox" in head["extra_gated_fields"].values()
    plain = yaml.safe_load(render(made_report(), CardDetails()).split("---\n")[1])
    assert not [key for key in plain if "gated" in key or "release" in key]


def test_what_was_done_before_training_is_said_in_words():
    forms = {
        "merge_words": 2.5,
        "merge_groups": 7,
        "erase_directions": 3,
        "keep_directions": 34,
        "keeping_erases": True,
    }
    made = render(made_report(recipe={"method": "mlac", **forms}), CardDetails())
    lines = re.findall(r"^- .*", section(made, "How it was trained"), flags=re.MULTILINE)
    assert len(lines) == len(forms)
    for line, number in zip(lines, ("2.5", "7", "3", "34", "erased"), strict=True):
        assert number in line
    plain = section(render(made_report(recipe={"method": "mlac"}), CardDetails()), "How it was trained")
    assert "`mlac`" in plain
    assert "- " not in plain


def test_title_falls_back_on_the_models_name():
    assert "\n# hardened-model\n" in render(made_report(), CardDetails())
    assert "\n# Tiny BERT, gender blocked\n" in render(made_report(), DETAILS)


def test_plots_and_fingerprints_are_shown():
    card = render(made_report(), DETAILS, plots=["selfdestruct/a.png", "selfdestruct/b.png"])
    assert card.count("](selfdestruct/") == 2
    for facts in made_report().tasks["gender"].fingerprints.values():
        assert facts.sha256[:16] in section(card, "Appendix: data")
    assert "`random`" in section(card, "Appendix: data")


# Hostile values

HOSTILE = "<script>alert(1)</script> | {{ 7*7 }} {% raw %} <!-- \n| a | b |\n# Heading"


def hostile_card():
    report = made_report(
        models={role: {"name": HOSTILE, "sha256": "f" * 64} for role in ROLES},
        recipe={"method": HOSTILE, HOSTILE: 1, "list": [HOSTILE, {"x": HOSTILE}], "inner": {"deep": HOSTILE}},
        extra=(made_run(attack=HOSTILE, examples=100),),
        desired={"dataset": HOSTILE, "hardened": {HOSTILE: 0.5}},
        versions={HOSTILE: HOSTILE},
        checks=(HOSTILE,),
        suite={"name": HOSTILE, "version": HOSTILE, "seeds": 3},
    )
    return render(report, CardDetails(intended_use=HOSTILE, contact=HOSTILE, release_plan=HOSTILE, license=HOSTILE))


def test_hostile_values_are_inert():
    body = body_of(hostile_card())
    assert "<script" not in body
    assert "<!--" not in body
    assert "49" not in body, "a template inside a value was run"
    assert "{{ 7*7 }}" in body


def test_hostile_values_make_no_headings_and_no_rows():
    hostile, harmless = hostile_card(), render(made_report(), DETAILS)
    assert "\n# Heading" not in body_of(hostile)
    assert re.findall(r"^## .*", hostile, flags=re.MULTILINE) == re.findall(r"^## .*", harmless, flags=re.MULTILINE)


@pytest.mark.parametrize("card", [render(made_report(), DETAILS), hostile_card()], ids=["plain", "hostile"])
def test_tables_are_rectangular(card):
    found = tables(card)
    assert len(found) == 9
    for table in found:
        assert len(table) >= 3
        assert len({len(cells(line)) for line in table}) == 1, "\n".join(table)
        assert set(table[1]) <= set("|-: ")


@pytest.mark.parametrize(
    ("gap", "fields"),
    [
        ("rows", {"tasks": {"gender": {"majority": 0.5, "num_labels": 2, "fingerprints": {}}}}),
        ("fingerprints", {"tasks": {"gender": {"majority": 0.5, "num_labels": 2, "rows": {"train": 1}}}}),
        ("seeds", {"suite": {"name": "x", "version": 1}}),
        ("hardened", {"roles": ("base", "scratch")}),
        ("tasks", {"tasks": {}, "runs": ()}),
    ],
)
def test_report_with_gaps_is_rendered_or_refused(gap, fields):
    """Never a traceback from inside the template: ``not measured``, or a ``ValueError`` that names the gap."""
    try:
        text = render(made_report(**fields), CardDetails())
    except ValueError as error:
        assert gap in str(error)  # noqa: PT017
    else:
        assert "not measured" in text or "not stated" in text


# Details


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"licence": "mit"}, "licence"),
        ({"title": 5}, "title"),
        ({"title": None}, "title"),
        ({"datasets": ["a", 3]}, "datasets"),
        ({"datasets": 5}, "datasets"),
        ({"language": {"en": 1, 2: 3}}, "language"),
        ({"language": None}, "language"),
        ({"release": {"hazards": "x"}}, "release: unknown fields: hazards"),
        ({"release": {"stages": [1]}}, "stages"),
        ({"release": "all"}, "release: expected an object"),
        ({"gate": {"mode": "maybe"}}, "auto, manual; got 'maybe'"),
        ({"gate": {"fields": {"Name": "file"}}}, "the answer to 'Name' must be one of"),
        ([], "expected an object"),
        ("mit", "expected an object"),
    ],
)
def test_wrong_details_are_refused_by_name(raw, named):
    with pytest.raises(ValueError, match=named):
        CardDetails.from_dict(raw)


def test_details_round_trip():
    assert CardDetails.from_dict(json.loads(DETAILS.to_json())) == DETAILS
    assert CardDetails.from_dict({"language": "en"}).language == ("en",)
    assert CardDetails.from_dict({"release": {"stages": "one"}}).release.stages == ("one",)


# Folder


def test_folder_is_rendered_from_its_files(tmp_path):
    evidence = tmp_path / "selfdestruct"
    made_report().save(evidence / "report.json")
    (evidence / "card.json").write_text(DETAILS.to_json(), encoding="utf-8")
    (evidence / "b.png").touch()
    (evidence / "a.png").touch()
    card = render_folder(tmp_path)
    assert card == tmp_path / "README.md"
    report = AttackReport.load(evidence / "report.json")
    expected = render(report, DETAILS, plots=["selfdestruct/a.png", "selfdestruct/b.png"])
    assert card.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"licence": ""}', "\xff"])
def test_folder_with_a_broken_card_json_is_refused(tmp_path, text):
    made_report().save(tmp_path / "selfdestruct" / "report.json")
    (tmp_path / "selfdestruct" / "card.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"card\.json|utf-8"):
        render_folder(tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_folder_without_report_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no report"):
        render_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "tag"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "text-classification"),
        ({"architectures": ["ViTForImageClassification"]}, "image-classification"),
        ({"architectures": ["Data2VecAudioForAudioFrameClassification"]}, ""),
        ({"architectures": ["BertModel"]}, ""),
        ({"task_type": "SEQ_CLS"}, "text-classification"),
        ({"architectures": None}, ""),
    ],
)
def test_the_hubs_task_is_what_the_model_is_for(config, tag):
    head = yaml.safe_load(render(made_report(), CardDetails().of_model(config)).split("---\n")[1])
    assert head.get("pipeline_tag", "") == tag
    assert ("model-index" in head) == bool(tag), "a result needs the name of a task"
    assert CardDetails(pipeline_tag="sentence-similarity").of_model(config).pipeline_tag == "sentence-similarity"


@pytest.mark.parametrize(
    ("name", "version", "pairs", "words"),
    [
        *(("quick", version, False, words) for version, words in ((3, BEATEN), (4, BEATEN_BEFORE), (7, BEATEN_BEFORE))),
        *(
            ("quick", version, True, words)
            for version, words in ((3, BEATEN), (6, BEATEN_ON_PAIRS), (7, BEATEN_BEFORE))
        ),
        *((name, 99, True, UNTRIED) for name in ("glance", "of my own")),
    ],
)
def test_a_card_states_what_is_known_of_stronger_attackers(name, version, pairs, words):
    report = made_report()
    tasks = {task: dataclasses.replace(facts, pairs=pairs) for task, facts in report.tasks.items()}
    suite = dataclasses.replace(report.suite, name=name, version=version)
    report = dataclasses.replace(report, suite=suite, tasks=tasks)
    assert judge_limits(report) == words
    assert words in render(report, DETAILS)
