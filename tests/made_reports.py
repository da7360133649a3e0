"""Reports made by hand for the tests of the judge: every number is chosen here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.files import weights_hash
from hf_selfdestruct.report.attack_run import AttackRun, Scores
from hf_selfdestruct.report.facts import (
    AttackFacts,
    DesiredFacts,
    ModelFacts,
    RowCounts,
    SplitFacts,
    SuiteFacts,
    TaskFacts,
)
from hf_selfdestruct.report.packing import packed, packed_labels, rounded
from hf_selfdestruct.report.report import AttackReport

ROLES = ("base", "undefended", "hardened", "scratch")
# Test accuracy by role, attack and examples at seeds 0, 1 and 2. On the hardened model the selection
# split prefers the head (0.62 against 0.61), though full fine-tuning reaches more on test.
ACCURACY = {
    "base": {"head only": {20: (0.80, 0.82, 0.84), 100: (0.90, 0.91, 0.92)}, "full fine-tuning": {100: (0.93,) * 3}},
    "undefended": {"head only": {20: (0.78, 0.80, 0.82), 100: (0.88,) * 3}, "full fine-tuning": {100: (0.92,) * 3}},
    "hardened": {
        "head only": {20: (0.52, 0.55, 0.58), 100: (0.60, 0.61, 0.62)},
        "full fine-tuning": {100: (0.62, 0.63, 0.64)},
    },
    "scratch": {
        "head only": {20: (0.55, 0.56, 0.57), 100: (0.58, 0.59, 0.60)},
        "full fine-tuning": {100: (0.61, 0.62, 0.63)},
    },
}
SELECTION = {("hardened", "head only", 100): 0.62, ("hardened", "full fine-tuning", 100): 0.61}


def made_scores(accuracy: float, auc: float) -> Scores:
    """Scores of a balanced task, whose loss is a number like any other."""
    return Scores(accuracy, auc, accuracy, 0.6)


def made_run(**fields: Any) -> AttackRun:
    """A run; ``accuracy``, ``auc`` and ``chose_by`` stand for its scores, ``failed=True`` for having none."""
    accuracy, auc = fields.pop("accuracy", 0.6), fields.pop("auc", 0.61)
    chose_by = fields.pop("chose_by", accuracy)
    failed = fields.pop("failed", False)
    usual = {
        "task": "gender", "attack": "head only", "role": "hardened", "examples": 20, "seed": 0, "settings": {},
        "chosen": True, "status": "failed" if failed else "ok", "steps": 0, "seconds": 1.5,
        "selection": None if failed else made_scores(chose_by, auc),
        "test": None if failed else made_scores(accuracy, auc),
        "error": "FloatingPointError: loss is nan at step 3" if failed else "",
    }  # fmt: skip
    return AttackRun(**{**usual, **fields})


def made_runs(role: str, accuracy: dict[str, dict[int, tuple[float, ...]]]) -> list[AttackRun]:
    """Chosen runs, and for full fine-tuning one more at a rate that was tried and not chosen."""
    runs = []
    for attack, budgets in accuracy.items():
        tuned = attack == "full fine-tuning"
        settings = {"learning_rate": 1e-4} if tuned else {"features": "mean-pooled"}
        for examples, values in budgets.items():
            common = {"role": role, "attack": attack, "examples": examples, "steps": 40 if tuned else 0}
            for seed, value in enumerate(values):
                chose_by = SELECTION.get((role, attack, examples), value)
                runs.append(made_run(**common, seed=seed, settings=settings, accuracy=value, chose_by=chose_by))
            if tuned:
                for rate in (1e-5, 1e-3):
                    lost = {"settings": {"learning_rate": rate}, "chosen": False, "accuracy": 0.5}
                    runs.append(made_run(**common, **lost))
    return runs


def of_kind(kind: Any, given: Any) -> Any:
    """A dataclass from a dictionary of its fields, unchecked; one that is there already stays."""
    return kind(**given) if isinstance(given, dict) else given


def made_task(given: Any) -> TaskFacts:
    """Facts of a task from a dictionary like JSON's."""
    if isinstance(given, TaskFacts):
        return given
    splits = {split: of_kind(SplitFacts, found) for split, found in given.get("fingerprints", {}).items()}
    return TaskFacts(**{**given, "rows": of_kind(RowCounts, given.get("rows", {})), "fingerprints": splits})


def made_desired(given: Any) -> DesiredFacts:
    """Desired quality from a dictionary: role to metrics, and ``"dataset"``."""
    if isinstance(given, DesiredFacts):
        return given
    return DesiredFacts(given.get("dataset", ""), {role: one for role, one in given.items() if role != "dataset"})


def made_facts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a report whose facts may be dictionaries, as the dataclasses that they are."""
    return {
        **fields,
        "suite": of_kind(SuiteFacts, fields["suite"]),
        "tasks": {name: made_task(one) for name, one in fields["tasks"].items()},
        "models": {role: of_kind(ModelFacts, one) for role, one in fields["models"].items()},
        "attacks": {name: of_kind(AttackFacts, one) for name, one in fields.get("attacks", {}).items()},
        "desired": made_desired(fields["desired"]),
    }


def made_report(*, roles: tuple[str, ...] = ROLES, extra: tuple[AttackRun, ...] = (), **fields: Any) -> AttackReport:
    """A healthy report of one blocked task that raises no doubt."""
    splits = {s: {"rows": 200, "sha256": c * 64} for s, c in (("train", "a"), ("attack", "b"), ("test", "c"))}
    usual: dict[str, Any] = {
        "suite": {"name": "smoke", "version": 1, "seeds": 3, "limit": 400},
        "tasks": {
            "gender": {
                "num_labels": 2, "majority": 0.53, "rows": {"train": 140, "selection": 60, "test": 200},
                "fingerprints": splits,
            }
        },
        "models": {r: {"name": f"{r}-model", "sha256": "" if r == "scratch" else r[0] * 64} for r in roles},
        "runs": (*(run for role in roles for run in made_runs(role, ACCURACY[role])), *extra),
        "desired": {
            "dataset": "the desired task's test split",
            "hardened": {"accuracy": 0.8125, "loss": 0.51}, "undefended": {"accuracy": 0.84, "loss": 0.49},
        },
        "recipe": {"method": "mlac", "seed": 0, "adversaries": {"0": {"steps": 4, "optimizer": "adam"}}},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    }  # fmt: skip
    return AttackReport(**made_facts({**usual, **fields}))


def report_of(folder: Path, **fields: Any) -> AttackReport:
    """The report of a folder's weights."""
    made = made_report(**fields)
    own = {"hardened": ModelFacts("hardened-model", weights_hash(folder))}
    return dataclasses.replace(made, models=made.models | own)


def made_labels(rows: int = 200, classes: int = 2, seed: int = 0) -> np.ndarray:
    """Labels of test rows, every class among them."""
    return np.random.default_rng(seed).permutation(np.arange(rows) % classes)


def made_probabilities(labels: np.ndarray, skill: float, seed: int, classes: int = 2) -> np.ndarray:
    """Noise of deviation 1 on the log-probabilities, and ``skill`` more on the right label's."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    values = np.exp(logits)
    return values / values.sum(axis=1, keepdims=True)


def predicted_report(
    labels: np.ndarray,
    probabilities: Mapping[str, Sequence[np.ndarray]],
    *,
    extra: tuple[AttackRun, ...] = (),
    **fields: Any,
) -> AttackReport:
    """A report with predictions, and the scores that follow: one attack at 20 examples, by role one array per seed."""
    runs = []
    for role, found in probabilities.items():
        for seed, one in enumerate(found, start=1000 if role == "null" else 0):
            kept = scores(labels, rounded(one))
            known = {"selection": kept, "test": kept, "predictions": packed(one), "role": role, "seed": seed}
            runs.append(made_run(**known))
    classes, counts = len(next(iter(probabilities.values()))[0].T), np.bincount(labels)
    facts = {"num_labels": classes, "majority": float(counts.max() / len(labels)), "labels": packed_labels(labels)}
    roles = tuple(role for role in ROLES if role in probabilities)
    return made_report(roles=roles, runs=(*runs, *extra), **{"tasks": {"gender": facts}, **fields})


def made_folder(folder: Path) -> Path:
    """A complete hardened folder of a tiny model, beside what a trainer leaves behind and never publishes."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from hf_selfdestruct.publish.card_details import CardDetails
    from hf_selfdestruct.trainer.attack import complete_folder

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(BertConfig(vocab_size=60, **sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    for private in ("training_args.bin", "checkpoint-2/model.safetensors", "_private/model.safetensors", "_attacks.db"):
        (folder / private).parent.mkdir(exist_ok=True)
        (folder / private).write_bytes(b"private")
    complete_folder(folder, report_of(folder), CardDetails(title="Tiny", license="mit"))
    return folder


def raw_report(**fields):
    return json.loads(made_report(**fields).to_json())
