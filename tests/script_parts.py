"""Scripts in the shape of transformers' examples, reduced to what they give a ``Trainer``, on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset
from torch import nn
from toy_models import tiny_config
from toy_project import make_tokenizer, sentences
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertModel,
    BertPreTrainedModel,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    default_data_collator,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_selfdestruct import BlockedTask, SelfDestructTrainer

LONGEST = 12
JOBS, ORIGINS = ClassLabel(names=["cook", "nurse"]), ClassLabel(names=["north", "south"])
Script = Callable[[Path], dict[str, Any]]


def pretrained(folder: Path) -> Path:
    """Encoders and a decoder as they lie on the Hub: ``folder/bert`` and ``folder/gpt2``, with their tokenizer."""
    for name in ("bert", "gpt2"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModelForPreTraining.from_config(tiny_config(name)).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return folder


def raw(rows: int, seed: int) -> Dataset:
    """Sentences with two labels."""
    return Dataset.from_list(sentences(rows, seed)).cast_column("job", JOBS).cast_column("origin", ORIGINS)


def tokenized(tokenizer: Any, **settings: Any) -> Callable[[Dataset], Dataset]:
    """What a script does to its texts."""
    return lambda rows: rows.map(
        lambda found: tokenizer(found["text"], truncation=True, max_length=LONGEST, **settings), batched=True
    )


def blocked(prepared: Callable[[Dataset], Dataset]) -> list[BlockedTask]:
    """The blocked task: one class per sentence, prepared as the script prepares its texts."""
    splits = {role: prepared(raw(40, i)) for i, role in enumerate(("train", "attack", "test"), 7)}
    return [BlockedTask("origin", label_column="origin", **splits)]


def data(prepared: Callable[[Dataset], Dataset], more: Callable[[Dataset], Dataset] = lambda rows: rows) -> Any:
    """Rows of the script's own task and of the blocked one."""
    own = {name: more(prepared(raw(24, i))) for i, name in enumerate(("train_dataset", "eval_dataset"), 1)}
    return {**own, "blocked_tasks": blocked(prepared)}


def glue(base: Path) -> dict[str, Any]:
    """Text classification, padded to one length, with the usual metric."""
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")
    return {
        "model": AutoModelForSequenceClassification.from_pretrained(base / "bert", num_labels=2),
        **data(tokenized(tokenizer, padding="max_length"), lambda rows: rows.rename_column("job", "label")),
        "compute_metrics": lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        "data_collator": default_data_collator,
        "processing_class": tokenizer,
    }


def ner(base: Path) -> dict[str, Any]:
    """One label per token."""
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")

    def tagged(rows: Dataset) -> Dataset:
        return rows.map(lambda row: {"labels": [-100, *(word % 2 for word in row["input_ids"][1:-1]), -100]})

    return {
        "model": AutoModelForTokenClassification.from_pretrained(base / "bert", num_labels=2),
        **data(tokenized(tokenizer), lambda rows: tagged(rows).remove_columns(["job", "origin"])),
        "compute_metrics": lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        "data_collator": DataCollatorForTokenClassification(tokenizer),
        "processing_class": tokenizer,
    }


class Answering(SelfDestructTrainer):
    """The trainer of question answering: arguments of its own, and an evaluation that makes texts of predictions."""

    def __init__(self, *arguments: Any, eval_examples: Any = None, post_process: Any = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.eval_examples, self.post_process = eval_examples, post_process

    def evaluate(self, rows: Any = None, examples: Any = None, ignore_keys: Any = None, prefix: str = "eval") -> Any:
        rows = self.eval_dataset if rows is None else rows
        examples = self.eval_examples if examples is None else examples
        metrics, self.compute_metrics = self.compute_metrics, None
        try:
            found = self.evaluation_loop(
                self.get_eval_dataloader(rows), "Evaluation", ignore_keys=ignore_keys, metric_key_prefix=prefix
            )
        finally:
            self.compute_metrics = metrics
        told = {f"{prefix}_{n}": v for n, v in metrics(self.post_process(examples, found.predictions)).items()}
        self.log(told)
        return {**found.metrics, **told}


def qa(base: Path) -> dict[str, Any]:
    """Where in a text the answer begins and ends."""
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")
    words = set(tokenizer.convert_tokens_to_ids(JOBS.names))

    def answered(rows: Dataset) -> Dataset:
        def places(row: dict[str, Any]) -> dict[str, int]:
            place = next(i for i, word in enumerate(row["input_ids"]) if word in words)
            return {"start_positions": place, "end_positions": place}

        return rows.map(places, remove_columns=["job", "origin"])

    found = data(tokenized(tokenizer, padding="max_length"), answered)
    return {
        "kind": Answering,
        "model": AutoModelForQuestionAnswering.from_pretrained(base / "bert"),
        **found,
        "eval_examples": found["eval_dataset"],
        "post_process": lambda examples, predictions: (predictions[0].argmax(-1), examples["start_positions"][:]),
        "compute_metrics": lambda told: {"exact_match": 100.0 * float((told[0] == told[1]).mean())},
        "data_collator": default_data_collator,
        "processing_class": tokenizer,
    }


def swag(base: Path) -> dict[str, Any]:
    """Which of several endings is the right one."""
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")

    def endings(rows: Dataset) -> Dataset:
        def choices(row: dict[str, Any]) -> dict[str, Any]:
            both = [tokenizer(row["text"], name, truncation=True, max_length=LONGEST) for name in JOBS.names]
            return {name: [one[name] for one in both] for name in both[0]} | {"label": row["job"]}

        return rows.map(choices, remove_columns=rows.column_names)

    own = {name: endings(raw(24, i)) for i, name in enumerate(("train_dataset", "eval_dataset"), 1)}
    return {
        "model": AutoModelForMultipleChoice.from_pretrained(base / "bert"),
        **own,
        "blocked_tasks": blocked(tokenized(tokenizer)),
        "compute_metrics": lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        "data_collator": DataCollatorForMultipleChoice(tokenizer),
        "processing_class": tokenizer,
    }


def clm(base: Path) -> dict[str, Any]:
    """Next words, in blocks of equal length, with the trainer's metric of accuracy on shifted labels."""
    tokenizer = AutoTokenizer.from_pretrained(base / "gpt2")

    def blocks(rows: Dataset) -> Dataset:
        def joined(found: dict[str, Any]) -> dict[str, Any]:
            ids = [word for row in found["input_ids"] for word in row]
            parts = [ids[i : i + 8] for i in range(0, len(ids) - 7, 8)]
            return {"input_ids": parts, "attention_mask": [[1] * 8 for _ in parts], "labels": [[*p] for p in parts]}

        return rows.map(joined, batched=True, remove_columns=rows.column_names)

    return {
        "model": AutoModelForCausalLM.from_pretrained(base / "gpt2"),
        **data(tokenized(tokenizer), blocks),
        "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
        "compute_metrics": lambda p: {"accuracy": float((p.predictions[:, :-1] == p.label_ids[:, 1:]).mean())},
        "data_collator": default_data_collator,
        "processing_class": tokenizer,
    }


def mlm(base: Path) -> dict[str, Any]:
    """Hidden words."""
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")
    tokenizer.add_special_tokens({"mask_token": "word0"})
    prepared = tokenized(tokenizer, return_special_tokens_mask=True)
    return {
        "model": AutoModelForMaskedLM.from_pretrained(base / "bert"),
        **data(prepared, lambda rows: rows.remove_columns(["job", "origin"])),
        "data_collator": DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3),
        "processing_class": tokenizer,
    }


class Weighted(SelfDestructTrainer):
    """The course's trainer: a loss with class weights."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))(outputs.logits.view(-1, 2), labels.view(-1))
        return (loss, outputs) if return_outputs else loss


def course(base: Path) -> dict[str, Any]:
    """Class weights, and padding on the way."""
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")
    return {**glue(base), "kind": Weighted, "data_collator": DataCollatorWithPadding(tokenizer)}


class Pooled(BertPreTrainedModel):
    """A classifier of the user's own: the mean of all words under a layer."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert, self.layer = BertModel(config, add_pooling_layer=False), nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> Any:
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        logits = self.layer((states * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def own_model(base: Path) -> dict[str, Any]:
    """The same data under a class of the user's own."""
    return {**glue(base), "model": Pooled.from_pretrained(base / "bert")}


SCRIPTS: tuple[Script, ...] = (glue, ner, qa, swag, clm, mlm, course, own_model)
