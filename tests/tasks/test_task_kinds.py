"""A second kind of task needs one file of its own, a suite and a loss, and no change of engine, report or card."""

import dataclasses
import json
import re

import datasets
import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score
from sources import ROOT
from toy_models import TINY_SUITE, tiny_model, toy_batch, toy_rows, toy_task
from toy_regression import SUITE, Correlation, Regression, sized_rows, sized_task

from hf_selfdestruct.attacks import AnyOf, FullFineTuning, HeadOnly
from hf_selfdestruct.attacks.metrics import check_metrics, scores
from hf_selfdestruct.attacks.suites.audit import plan_problems
from hf_selfdestruct.attacks.suites.ledger import Ledger, RecordedRun
from hf_selfdestruct.attacks.suites.plan import Job
from hf_selfdestruct.attacks.target import Target
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.tables import DESIRED_KEPT, WITHOUT_PREDICTIONS, comparison_table
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments

OF_CLASSES = re.compile(r"accurac|AUC|commonest|argmax|cross.?entropy|num_labels|majority|classification")


class Furthest(evaluate.Metric):
    """The largest error of all rows."""

    def _info(self):
        number = datasets.Value("float64")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"furthest": float(np.abs(np.subtract(predictions, references)).max())}


def trainer_in(folder, *, losses=None, **given):
    """Hardens a tiny model against a regression; the desired task is a classification."""
    settings = {
        "method": "mlac", "max_steps": 3, "inner_steps": 2, "adversary": {"batch_size": 8},
        "blocking_batch_size": 12, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
        "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", **given,
    }  # fmt: skip
    return SelfDestructTrainer(
        model=tiny_model(),
        args=SelfDestructTrainingArguments(str(folder), **settings),
        train_dataset=toy_rows(48, seed=1, columns=("labels",)),
        eval_dataset=toy_rows(24, seed=2, columns=("labels",)),
        blocked_tasks=[sized_task()],
        blocking_losses=losses,
    )


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The trainer and the report of a hardened model, attacked."""
    trainer = trainer_in(tmp_path_factory.mktemp("regression"), losses=[Correlation()])
    trainer.train()
    return trainer, trainer.attack(SUITE, metrics={"furthest": Furthest()})


def test_every_role_has_a_score_of_its_own_kind(attacked):
    _, report = attacked
    assert report.tasks["size"].score == "R2"
    assert report.roles() == ["base", "undefended", "hardened", "scratch"]
    assert {run.status for run in report.runs} == {"ok"}
    assert "raw" not in {run.role for run in report.runs}, "its classifier reads classes"
    assert {(run.test.accuracy, run.test.auc, run.predictions) for run in report.runs} == {(None, None, "")}
    assert all(run.test.score <= 1 and run.test.extra["furthest"] > 0 for run in report.runs)
    assert len({run.test.score for run in report.runs}) > len(report.roles()), "models and seeds should differ"
    assert all(run.optimism >= 0 for run in report.runs if run.chosen)


def test_the_search_takes_what_scores_best(attacked):
    _, report = attacked
    for role in report.roles():
        first = [run for run in report.runs_of("size", 42, role) if run.seed == 0]
        assert len(first) == 2
        assert max(first, key=lambda run: run.selection.score).chosen


def test_fine_tuning_learns_a_quantity(attacked):
    _, report = attacked
    reached = [run.selection.score for run in report.runs_of("size", 42, "base")]
    assert max(reached) > 0.1, "more than the mean of all rows explains"


def test_the_defence_acted(attacked):
    trainer, report = attacked
    logged = [entry for entry in trainer.state.log_history if "blocking_loss" in entry]
    assert len(logged) == 3
    assert all(entry["meta_grad_norm"] > 0 and 0 <= entry["blocking_loss"] <= 1 for entry in logged)
    assert all(entry["blocked_R2/step_2"] <= 1 for entry in logged)
    assert not any("accuracy" in name for name in logged[0])
    assert report.distances["undefended"] > 0


def test_what_is_published_speaks_of_no_classes(attacked):
    trainer, report = attacked
    folder = trainer.folder
    table, card = report.table(), (folder / "README.md").read_text(encoding="utf-8")
    assert "test R2 after attack" in " ".join(table.split())
    assert "Test R2 of the attack that the selection split prefers" in card
    assert "scored by R2; the best constant answer scores 0.000" in card
    for page in (table, card.partition("## Appendix: recipe")[0].replace(DESIRED_KEPT, "")):
        assert WITHOUT_PREDICTIONS.partition(":")[0] in " ".join(page.split())
        assert not re.search(OF_CLASSES, page.replace("text-classification", "")), page
    assert len([*(folder / "selfdestruct").glob("*.png")]) == 4
    assert "test R2" in " ".join(comparison_table([report, report], ["one", "other"]).split())


def test_the_folder_is_whole_and_its_plan_is_not_judged(attacked):
    trainer, report = attacked
    assert problems(trainer.folder) == []
    assert AttackReport.load(trainer.folder / "selfdestruct" / "report.json") == report
    assert "not shipped" in plan_problems(report)[0]
    shipped = dataclasses.replace(report, suite=dataclasses.replace(report.suite, name="smoke", version=1))
    assert plan_problems(shipped)


@pytest.mark.parametrize(
    ("change", "told"),
    {
        "score": (lambda raw: raw["tasks"]["size"].pop("score"), "scored by 'accuracy'"),
        "name": (lambda raw: raw["tasks"]["size"].update(score="$R^2$"), "score must be a name"),
        "classes": (lambda raw: raw["tasks"]["size"].update(num_labels=2), "no num_labels"),
        "both": (lambda raw: raw["runs"][0]["test"].update(accuracy=0.5), "or score instead"),
        "neither": (lambda raw: raw["runs"][0]["test"].pop("score"), "or score instead"),
    }.values(),
)
def test_a_report_of_mixed_kinds_is_refused(attacked, change, told):
    raw = json.loads(attacked[1].to_json())
    change(raw)
    with pytest.raises(ValueError, match=re.escape(told)):
        AttackReport.from_json(json.dumps(raw))


def test_scores_are_those_of_sklearn():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=50).astype(np.float32)
    answers = (labels + generator.normal(size=50)).astype(np.float32)[:, None]
    found = scores(labels, answers, kind=Regression())
    assert found.score == found.value == pytest.approx(r2_score(labels, answers[:, 0]), rel=1e-5)
    assert found.loss == pytest.approx(mean_squared_error(labels, answers[:, 0]), rel=1e-5)
    check_metrics({"furthest": Furthest()}, labels, 1, kind=Regression())


def test_the_adversary_minimises_what_the_attacker_does(attacked):
    """The kind's loss in the inner loop is the one that transformers computes for the attacker."""
    model = Target("base", str(attacked[0].folder / "_base")).load(1, 0, Regression.problem_type).eval()
    batch = toy_batch() | {"labels": torch.tensor(sized_rows(6, 3)["size"][:])}
    outputs = model(**batch)
    assert torch.equal(outputs.loss, Regression().loss(outputs.logits, batch["labels"]))


def test_a_quantity_of_minus_100_counts():
    logits, labels = torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([-100.0, 1.0, 2.0])
    expected = np.corrcoef(logits[:, 0], labels)[0, 1] ** 2
    assert Correlation()(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, r"HeadAdjustedCrossEntropy cannot be measured on .*'size', a regression: .*denial_of_service"),
        (
            {"method_options": {"probe_weight": 1.0}, "blocking_loss": "denial_of_service"},
            "RepresentationProbe cannot be measured",
        ),
        (
            {"losses": [Correlation()], "method_options": {"merge_words": 2.0}},
            "set method_options={'merge_words': 0.0}",
        ),
        ({"losses": [Correlation()], "method_options": {"erase_directions": 2}}, "erase_directions reads classes"),
    ],
)
def test_what_reads_classes_is_refused_before_training(tmp_path, given, told):
    with pytest.raises(ValueError, match=told):
        trainer_in(tmp_path, **given)


def test_a_shipped_loss_fits(tmp_path):
    trainer = trainer_in(tmp_path, blocking_loss="denial_of_service", max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["meta_grad_norm"] > 0


def test_a_suite_that_reads_classes_is_refused_before_the_sibling_is_trained(attacked):
    trainer, _ = attacked
    with pytest.raises(ValueError, match=r"'tiny' cannot attack task 'size', a regression, by head only: pass a suite"):
        trainer.attack(TINY_SUITE)
    assert not AnyOf("either", (HeadOnly(), FullFineTuning())).fits(Regression())
    job = Job(TINY_SUITE, [], [toy_task()], ["input_ids"], collate=dict)
    with pytest.raises(ValueError, match="cannot attack task 'size'"):
        dataclasses.replace(job, tasks=[sized_task()])


def test_runs_of_two_kinds_on_the_same_rows_are_not_mixed_up(tmp_path):
    tasks = [toy_task("size"), toy_task("size", kind=Regression())]
    assert [task.outputs for task in tasks] == [2, 1]
    target = Target("scratch", str(tmp_path), random=True)
    tiny_model().config.save_pretrained(tmp_path)
    jobs = [Job(SUITE, [target], [task], ["input_ids"], collate=dict) for task in tasks]
    studies = [{search.study for search in job.searches(job.data())} for job in jobs]
    assert not set.intersection(*studies)


def test_a_ledger_keeps_what_each_row_adds(attacked):
    credit = np.random.default_rng(0).normal(size=(3, 21))
    ledger = Ledger()
    ledger.record("study", "key", RecordedRun(attacked[1].runs[0], credit))
    found = ledger.recall("study", "key")
    assert np.array_equal(found.hits, credit)
    assert found.run == attacked[1].runs[0]


@pytest.mark.parametrize("folder", ["meta_gradient", "publish"])
def test_engine_and_card_name_no_kind_of_task(folder):
    """The Hub's own names of desired tasks, such as text-classification, are no blocked task's."""
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.jinja")]:
        text = re.sub(r"AutoModelFor\w+|For\w+Classification|\w+-classification|own classes", "", path.read_text())
        assert not re.search(OF_CLASSES, text), f"{path.name}: {re.search(OF_CLASSES, text)}"
