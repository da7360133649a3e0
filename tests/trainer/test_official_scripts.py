"""Scripts of transformers' examples and its course, with two names swapped and a blocked task, to their last line."""

from __future__ import annotations

import pytest
from script_parts import SCRIPTS, pretrained
from toy_models import TINY_SUITE

from hf_selfdestruct import SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.publish.manifest import problems


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("hub"))


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    """They take most of the time of a tiny attack, and nothing here looks at them."""
    monkeypatch.setattr("hf_selfdestruct.trainer.attack.save_plots", lambda *_: None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_script_is_hardened_attacked_and_ended(script, base, tmp_path):
    given = script(base)
    args = SelfDestructTrainingArguments(
        str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        inner_steps=1,
        method="mlac_fast",
    )
    trainer = given.pop("kind", SelfDestructTrainer)(args=args, **given)
    result = trainer.train(resume_from_checkpoint=None)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    named = {name for name in metrics if name.endswith(("loss", "accuracy", "exact_match"))}
    report = trainer.attack(TINY_SUITE)
    trainer.create_model_card(finetuned_from="a/b", tasks="text-classification", dataset_tags="glue")
    trainer.save_model()

    assert [run.error for run in report.runs if run.error] == []
    assert any("blocking_loss" in entry for entry in trainer.state.log_history)
    for role in ("hardened", "undefended"):
        assert {name.removeprefix("eval_") for name in named} <= report.desired.of(role).keys()
    assert named
    assert problems(trainer.folder) == []
    type(trainer.model).from_pretrained(trainer.folder)
