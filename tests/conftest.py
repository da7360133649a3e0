"""Fixtures for all tests; tiny models and toy data come from ``toy_models``.

Fixtures that make things return the function that makes them: ``tiny_model("gpt2", hidden=32)``.
"""

from __future__ import annotations

import gc
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from datasets import Dataset
from loopback_hub import LoopbackHub
from made_reports import made_folder
from task_parts import SPLITS
from toy_episodes import Toy
from toy_hub import run_against
from toy_models import ARCHITECTURES, tiny_model, toy_batch, toy_rows, toy_task
from toy_project import make_project
from transformers import PreTrainedModel, ResNetConfig, ViTConfig

from hf_selfdestruct.cli.__main__ import main
from hf_selfdestruct.tasks.blocked_task import BlockedTask
from hf_selfdestruct.trainer.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Each training collects garbage first: it need not look through all that is imported, which takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete hardened folder; to be read only."""
    return made_folder(tmp_path_factory.mktemp("hardened"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(original, tmp_path / "hardened")


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub on loopback."""
    with LoopbackHub() as running:
        yield running


@pytest.fixture
def push(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """``hf-selfdestruct push`` of the folder."""
    return lambda url, *options, repo="tester/hardened", token="hf_x": run_against(
        url, "push", folder, repo, *options, home=tmp_path, token=token
    )


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Each of the six architectures in turn."""
    return request.param


@pytest.fixture(scope="session", name="tiny_model")
def _tiny_model() -> Callable[..., PreTrainedModel]:
    """See :func:`tiny_model`."""
    return tiny_model


@pytest.fixture(scope="session")
def tiny_bert() -> Callable[..., PreTrainedModel]:
    """Makes a tiny BERT classifier; the same one for the same arguments."""
    return lambda **sizes: tiny_model("bert", **sizes)


@pytest.fixture(scope="session", name="toy_rows")
def _toy_rows() -> Callable[..., Dataset]:
    """See :func:`toy_rows`."""
    return toy_rows


@pytest.fixture(scope="session", name="toy_batch")
def _toy_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """See :func:`toy_batch`."""
    return toy_batch


@pytest.fixture(scope="session", name="toy_task")
def _toy_task() -> Callable[..., BlockedTask]:
    """See :func:`toy_task`."""
    return toy_task


@pytest.fixture(scope="session")
def toy_data() -> dict[str, Dataset]:
    """Desired-task rows: 48 to train on, 24 to evaluate on."""
    return {
        "train": toy_rows(48, seed=1, columns=("labels",)),
        "validation": toy_rows(24, seed=2, columns=("labels",)),
    }


@pytest.fixture(scope="session")
def make_trainer(toy_data: dict[str, Dataset]) -> Callable[..., SelfDestructTrainer]:
    """Makes ``SelfDestructTrainer``: ``make_trainer(folder, model=..., blocked_tasks=..., **arguments)``.

    Keyword arguments that ``SelfDestructTrainer`` knows go to it, all others to
    ``SelfDestructTrainingArguments``. By default: tiny BERT, batches of 4, 2 inner steps, 3 steps.
    """
    to_trainer = (
        "train_dataset",
        "eval_dataset",
        "blocked_tasks",
        "adversaries",
        "blocking_losses",
        "keeping_losses",
        "keep_dataset",
        "callbacks",
        "compute_loss_func",
        "compute_metrics",
        "data_collator",
        "optimizer_cls_and_kwargs",
        "optimizers",
        "peft_config",
        "preprocess_logits_for_metrics",
        "processing_class",
    )

    def make(
        folder: Path, *, model: PreTrainedModel | None = None, kind: type = SelfDestructTrainer, **arguments: Any
    ) -> SelfDestructTrainer:
        given = {name: arguments.pop(name) for name in to_trainer if name in arguments}
        settings = {
            "method": "mlac",
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "max_steps": 3,
            "save_strategy": "no",
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "seed": 7,
            "inner_steps": 2,
            "blocking_batch_size": 8,
            **arguments,
            "adversary": {"batch_size": 4, **arguments.get("adversary", {})},
        }
        return kind(
            model=tiny_model() if model is None else model,
            args=SelfDestructTrainingArguments(str(folder), **settings),
            **{
                "train_dataset": toy_data["train"],
                "eval_dataset": toy_data["validation"],
                "blocked_tasks": [toy_task()],
                **given,
            },
        )

    return make


@pytest.fixture
def loudness():
    """Commands run in this process silence the libraries; other tests want to hear them."""
    verbosity, bars = transformers.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    yield
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()
    if not bars:
        datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def refused(capsys):
    """Runs a command in this process; returns its one line on standard error, after checking exit code 2."""

    def run(*words, code=2):
        capsys.readouterr()
        assert main([*map(str, words)]) == code
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("hf-selfdestruct: error: ")
        return lines[0]

    return run


@pytest.fixture
def build(tiny_model):
    """Makes a tiny model of any kind in float64, without dropout: ``build("vit", AutoModel, seed=1)``."""

    def make(kind: str, auto: type, *, seed: int = 0) -> PreTrainedModel:
        usual = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        if kind == "vit":
            config = ViTConfig(**usual, image_size=8, patch_size=4)
        elif kind == "resnet":
            config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        else:
            config = tiny_model(kind).config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return auto.from_config(config).double().eval()

    return make


@pytest.fixture
def split_rows(toy_rows):
    """The rows of each split of ``toy_task()``."""
    return {role: toy_rows(60, seed=10 + i, columns=("blocked",)) for i, role in enumerate(SPLITS)}


@pytest.fixture
def plain_model(tiny_model):
    """The adversary's whole model: an ordinary two-class one with an episode's weights in it."""

    def make(episode: Toy, architecture: str = "bert"):
        model = tiny_model(architecture, num_labels=2).double().eval()
        if architecture != "resnet":
            model.set_attn_implementation("sdpa")
        missing, unknown = model.load_state_dict({**episode.published, **episode.head}, strict=False)
        assert not unknown
        assert not set(missing) & {name for name, _ in model.named_parameters()}
        return model

    return make
