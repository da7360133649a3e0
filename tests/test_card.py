"""The card: everything on it comes from the report and the user's own words, and nothing in them acts."""

import dataclasses
import html
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from made_reports import ROLES, made_labels, made_probabilities, made_report, made_run, predicted_report

from hf_selfdestruct.card import headlines, render, render_folder
from hf_selfdestruct.comparison import difference
from hf_selfdestruct.details import CardDetails, Gate, ReleaseConsiderations
from hf_selfdestruct.recovery import regret
from hf_selfdestruct.report import AttackReport
from hf_selfdestruct.tables import control_rows

DETAILS = CardDetails(
    title="Tiny BERT, gender blocked",
    license="apache-2.0",
    base_model="google-bert/bert-base-uncased",
    datasets=("bios/neutral",),
    language=("en",),
    pipeline_tag="text-classification",
    intended_use="Telling professions.",
    contact="security@example.org",
    release_plan="Open, in one stage.",
)


def section(card, heading):
    """The text under a heading of the second level."""
    (found,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found


def body_of(card):
    return card.split("---\n", 2)[2]


def tables(card):
    """Each table as its lines."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", body_of(card), flags=re.MULTILINE)]


def cells(line):
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


# Control tasks


def test_benign_fine_tuning_stands_beside_the_desired_task():
    facts = made_report().tasks["gender"]
    report = made_report(tasks={"gender": facts, "topic": {**facts, "control": True}}, extra=(made_run(task="topic"),))
    shown = section(render(report, DETAILS), "Desired task")
    for row in control_rows(report, "topic"):
        assert f"| {' | '.join(row)} |" in html.unescape(shown)
    assert "Benign fine-tuning to **topic**" in shown
    assert "Benign" not in render(made_report(), DETAILS)


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


# Numbers


def test_every_number_of_the_result_is_in_the_report():
    """Recomputed from the runs alone: choose by selection, then mean and deviation of test accuracy."""
    report = made_report()
    lines = headlines(report, "gender")
    assert len(lines) == 2
    for examples, line in zip((20, 100), lines, strict=True):
        means = {}
        for role in ROLES:
            by_attack = {}
            for run in report.runs:
                if (run.role, run.examples, run.chosen) == (role, examples, True):
                    by_attack.setdefault(run.attack, []).append(run)
            runs = max(by_attack.values(), key=lambda runs: sum(r.selection.accuracy for r in runs) / len(runs))
            tests = [r.test.accuracy for r in runs]
            means[role] = sum(tests) / 3
            deviation = (sum((t - means[role]) ** 2 for t in tests) / 2) ** 0.5
            cell = f"{means[role]:.3f} ± {deviation:.3f}"
            assert (f"reaches **{cell}** on this model" if role == "hardened" else f"{role} {cell}") in line
        assert f"{means['hardened'] - means['scratch']:+.3f}" in line
        numbers = re.findall(r"\d+\.\d+", line)
        assert len(numbers) == 2 * len(ROLES) + 1, "a number nobody asked for"


def test_seeds_are_those_that_were_run():
    assert "over attack seeds (3)." in render(made_report(), DETAILS)
    more = tuple(made_run(seed=seed) for seed in range(3, 10))
    assert "over attack seeds (3 to 10)." in render(made_report(extra=more), DETAILS)


def test_result_lines_stand_on_the_card():
    report = made_report()
    card = render(report, DETAILS)
    for line in headlines(report, "gender"):
        assert f"- {line}\n" in section(card, "Result")


def test_every_attack_is_listed_strongest_on_the_hardened_model_first():
    (table,) = tables(f"---\n---\n{section(render(made_report(), DETAILS), 'Every attack')}")
    rows = [[c.strip() for c in cells(line)] for line in table[2:]]
    assert [row[:3] for row in rows] == [
        ["full fine-tuning", "100", "3 settings, 40 steps"],
        ["head only", "100", "1 setting, no steps"],
        ["head only", "20", "1 setting, no steps"],
    ]
    assert rows[0][3:] == ["0.930 ± 0.000", "0.920 ± 0.000", "0.630 ± 0.010", "0.620 ± 0.010", "0.610 / 0.630"]


def test_the_card_says_how_many_labelled_rows_the_choice_had():
    report = made_report()
    facts = {**report.tasks["gender"], "rows": {"train": 100, "selection": 43, "test": 10}}
    card = render(made_report(tasks={"gender": facts}), DETAILS)
    assert "the selection split (labelled rows beside the examples:\n43) chose" in card


def test_an_attack_that_failed_everywhere_is_no_convex_fit():
    failed = [made_run(attack="faster embeddings", role=role, failed=True) for role in ROLES]
    (table,) = tables(f"---\n---\n{section(render(made_report(extra=tuple(failed)), DETAILS), 'Every attack')}")
    rows = {row[0]: row for row in ([c.strip() for c in cells(line)] for line in table[2:])}
    assert rows["faster embeddings"][2:] == ["1 setting, failed", *["not measured"] * 5]


def at(hardened, scratch):
    runs = tuple(
        made_run(role=role, seed=seed, accuracy=value + shift)
        for role, value in (("hardened", hardened), ("scratch", scratch))
        for seed, shift in enumerate((-0.01, 0.0, 0.01))
    )
    return made_report(roles=("hardened", "scratch"), runs=runs)


@pytest.mark.parametrize(
    ("hardened", "scratch", "blocked"),
    [(0.64, 0.60, False), (0.632, 0.60, False), (0.628, 0.60, True), (0.60, 0.60, True), (0.50, 0.60, True)],
)
def test_negative_result_is_said_and_only_then(hardened, scratch, blocked):
    card = render(at(hardened, scratch), DETAILS)
    assert ("not blocked" in section(card, "Result")) is not blocked
    assert f"{hardened - scratch:+.3f}" in section(card, "Result")


@pytest.mark.parametrize(("skill", "blocked"), [(0.0, True), (0.5, True), (0.6, True), (3.0, False)])
def test_with_predictions_the_interval_decides_what_is_blocked(skill, blocked):
    labels = made_labels()
    skills = {"hardened": skill, "scratch": 0.5}
    found = {r: [made_probabilities(labels, s, seed) for seed in range(3)] for r, s in skills.items()}
    report = predicted_report(labels, found)
    result = html.unescape(section(render(report, DETAILS), "Result"))
    interval = difference(report, "gender", 20)
    assert ("not blocked" in result) is not blocked
    assert (interval.low > 0) is not blocked
    assert (interval.mean > 0) == (skill > 0.5), "a mean above zero is no break by itself"
    assert result.count(str(interval)) >= 2, "in the sentence and in the table"
    for line in headlines(report, "gender"):
        assert f"- {line}\n" in result
    (row,) = re.findall(r"^\| 20 \|.*", result, flags=re.MULTILINE)
    auc, loss = difference(report, "gender", 20, metric="auc"), regret(report, "gender")[20]
    assert [c.strip() for c in cells(row)] == ["20", str(interval), str(auc), *["not measured"] * 2, str(loss)]


def test_without_scratch_nothing_is_said_of_it():
    report = made_report(roles=("base", "hardened"), runs=made_report(roles=("base", "hardened")).runs)
    result = section(render(report, DETAILS), "Result")
    assert "Difference to scratch" not in result
    assert "not blocked" not in result


def test_desired_quality_is_printed_or_not_measured():
    text = section(render(made_report(), DETAILS), "Desired task")
    (line,) = re.findall(r"^\| accuracy .*", text, flags=re.MULTILINE)
    assert [c.strip() for c in cells(line)] == ["accuracy", "not measured", "0.8400", "0.8125", "not measured"]
    assert "the desired task's test split" in text
    assert section(render(made_report(desired={}), DETAILS), "Desired task").strip() == "not measured"


# Words


def test_the_sentence_about_adaptive_attack_is_always_there():
    for details in (DETAILS, CardDetails()):
        words = " ".join(render(made_report(), details).replace("\n>", " ").split())
        assert "No known post-training defence has survived adaptive attack." in words
        assert "it is no guarantee" in words


def test_doubts_are_printed():
    doubts = ("gender: scratch is starved.", "gender: too few seeds.")
    text = section(render(made_report(checks=doubts), DETAILS), "Doubts the suite raised")
    assert all(f"- {doubt}\n" in text for doubt in doubts)
    assert "None of its checks fired" not in text
    assert "None of its checks fired" in render(made_report(), DETAILS)


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
    assert "whom the publisher lets in" in text
    assert "not stated" not in text
    empty = section(render(made_report(), CardDetails()), "Release considerations")
    assert empty.count("not stated") == 4 + len(dataclasses.fields(release))
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
    section = made.partition("## Recipe\n\n")[2].partition("\n\n| setting")[0].splitlines()
    assert len(section) == len(forms)
    for line, number in zip(section, ("2.5", "7", "3", "34", "erased"), strict=True):
        assert line.startswith("- ")
        assert number in line
    plain = render(made_report(recipe={"method": "mlac"}), CardDetails())
    assert "## Recipe\n\n| setting | value |" in plain


def test_title_falls_back_on_the_models_name():
    assert "\n# hardened-model\n" in render(made_report(), CardDetails())
    assert "\n# Tiny BERT, gender blocked\n" in render(made_report(), DETAILS)


def test_plots_and_fingerprints_are_shown():
    card = render(made_report(), DETAILS, plots=["selfdestruct/a.png", "selfdestruct/b.png"])
    assert card.count("](selfdestruct/") == 2
    for facts in made_report().tasks["gender"]["fingerprints"].values():
        assert facts["sha256"][:16] in section(card, "Data")
    assert "`random`" in section(card, "Data")


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
    assert len(found) == 8
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
