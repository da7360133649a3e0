"""Toy models and tasks for the judge: one task that token embeddings give away, one of random labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from hf_selfdestruct.attacks import AttackData, Target
from hf_selfdestruct.tasks.blocked_task import BlockedTask

COLUMNS = ("input_ids", "attention_mask")


def collate(rows):
    """Pads ``input_ids`` and ``attention_mask`` to the longest row."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(column):
        return torch.tensor([[*row[column], *[0] * (longest - len(row[column]))] for row in rows])

    return {
        "input_ids": padded("input_ids"),
        "attention_mask": padded("attention_mask"),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def dataset(rows, *, seed, labels):
    """Rows of 5 to 9 tokens, one of which is 4, 5 or 6; ``readable`` labels say which, ``random`` ones say nothing."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(8, 60, generator.integers(5, 10)) for _ in range(rows)]
    kinds = generator.integers(0, 3 if labels == "three" else 2, rows)
    for row, kind in zip(tokens, kinds, strict=True):
        row[generator.integers(0, len(row), 2)] = 4 + kind
    if labels == "random":
        kinds = generator.integers(0, 2, rows)
    columns = {"input_ids": [row.tolist() for row in tokens], "attention_mask": [[1] * len(row) for row in tokens]}
    return Dataset.from_dict({**columns, "label": kinds.tolist()})


def task_of(labels="readable", *, rows=200, name="toy"):
    splits = {s: dataset(rows, seed=i, labels=labels) for i, s in enumerate(("train", "attack", "test"))}
    return BlockedTask(name, **splits)


def data_of(labels="readable", **options):
    return AttackData.of(task_of(labels, **options), COLUMNS, collate)


def save_model(folder, *, seed=1234, dropout=0.1, layers=1):
    """A tiny BERT with a head of five classes for another task."""
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(vocab_size=60, max_position_embeddings=16, num_labels=5, **sizes, **drop)
        BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A saved model that no test changes."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def target(folder):
    return Target("hardened", folder)


@pytest.fixture(scope="session")
def readable():
    return data_of("readable")


@pytest.fixture(scope="session")
def noise():
    return data_of("random")


@pytest.fixture(scope="session", name="data_of")
def _data_of():
    """See :func:`data_of`."""
    return data_of


@pytest.fixture(scope="session", name="task_of")
def _task_of():
    """See :func:`task_of`."""
    return task_of


@pytest.fixture(scope="session", name="save_model")
def _save_model():
    """See :func:`save_model`."""
    return save_model


@pytest.fixture(scope="session", name="collate")
def _collate():
    """See :func:`collate`."""
    return collate


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'attacks.db'}"


@pytest.fixture
def targets(folder):
    return [Target("base", folder), Target("hardened", folder), Target("scratch", folder, random=True)]


@pytest.fixture
def attacked(collate):
    """Runs a suite on toy tasks."""

    def run(suite, targets, tasks, **options):
        return suite.run(targets, tasks, columns=COLUMNS, collate=collate, **{"progress": False, **options})

    return run
