"""An ordinary Trainer script becomes a hardening script by changing two class names and naming blocked tasks."""

from __future__ import annotations

import difflib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from toy_project import environment
from transformers import PreTrainedTokenizerFast

ORDINARY = """
import sys
from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Path to a pretrained model."})


@dataclass
class DataArguments:
    train_file: str = field(metadata={"help": "Rows to train on."})
    validation_file: str = field(metadata={"help": "Rows to evaluate on."})
    max_seq_length: int = field(default=16, metadata={"help": "Longer texts are cut."})


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)
    files = {"train": data_args.train_file, "validation": data_args.validation_file}
    raw = load_dataset("json", data_files=files)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(model_args.model_name_or_path, num_labels=2)

    def preprocess(examples):
        return tokenizer(examples["sentence"], max_length=data_args.max_seq_length, truncation=True)

    data = raw.map(preprocess, batched=True)

    def compute_metrics(prediction):
        return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    result = trainer.train()
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
"""

IMPORT = "from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments"
ADDED = """        blocked_tasks=[
            BlockedTask("tone", train=data["train"], attack=data["validation"], label_column="tone", num_labels=2)
        ],"""


def hardening_script() -> str:
    script = ORDINARY.replace("    Trainer,\n    TrainingArguments,\n", "")
    script = script.replace("    set_seed,\n)\n", f"    set_seed,\n)\n\n{IMPORT}\n")
    script = script.replace("DataArguments, TrainingArguments))", "DataArguments, SelfDestructTrainingArguments))")
    script = script.replace("trainer = Trainer(", "trainer = SelfDestructTrainer(")
    return script.replace("        processing_class=", f"{ADDED}\n        processing_class=")


def test_the_difference_is_two_names_an_import_and_the_blocked_tasks() -> None:
    changes = list(difflib.ndiff(ORDINARY.splitlines(), hardening_script().splitlines()))
    removed = [line[2:].strip() for line in changes if line.startswith("- ")]
    added = [line[2:].strip() for line in changes if line.startswith("+ ") and line[2:].strip()]
    parser = "parser = HfArgumentParser((ModelArguments, DataArguments, {}))"
    assert removed == ["Trainer,", "TrainingArguments,", parser.format("TrainingArguments"), "trainer = Trainer("]
    assert added == [
        IMPORT,
        parser.format("SelfDestructTrainingArguments"),
        "trainer = SelfDestructTrainer(",
        *(line.strip() for line in ADDED.splitlines()),
    ]


def run(act: Callable[..., None], what: str, *words: str, folder: Path) -> subprocess.CompletedProcess:
    return forked.run(act, what, [*words], folder=folder, variables=environment(folder))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, tiny_model) -> dict[str, Path]:
    """Both scripts, run with the same command line; the folder each one wrote."""
    folder = tmp_path_factory.mktemp("swap")
    words = [f"word{i}" for i in range(50)]
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(folder / "base")
    tiny_model().save_pretrained(folder / "base")
    for name, rows, first in (("train", 40, 0), ("validation", 20, 40)):
        lines = [
            {
                "sentence": f"word{i % 2} word{2 + i // 2 % 2} word{4 + i % 40} " + f"word{5 + i // 2} " * (1 + i % 3),
                "label": i % 2,
                "tone": i // 2 % 2,
            }
            for i in range(first, first + rows)
        ]
        (folder / f"{name}.json").write_text("\n".join(json.dumps(line) for line in lines))
    found = {}
    for name, script in (("ordinary", ORDINARY), ("hardened", hardening_script())):
        (folder / f"{name}.py").write_text(script)
        finished = run(
            forked.run_script,
            f"{name}.py",
            "--model_name_or_path",
            "base",
            "--train_file",
            "train.json",
            "--validation_file",
            "validation.json",
            "--output_dir",
            name,
            "--num_train_epochs",
            "2",
            "--per_device_train_batch_size",
            "8",
            "--eval_strategy",
            "epoch",
            "--save_strategy",
            "epoch",
            "--use_cpu",
            "True",
            "--report_to",
            "none",
            "--learning_rate",
            "1e-3",
            "--logging_steps",
            "1",
            folder=folder,
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        found[name] = folder / name
    return found


def test_both_leave_the_same_kinds_of_files(outputs) -> None:
    files = {
        name: {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for name, folder in outputs.items()
    }
    assert files["ordinary"] <= files["hardened"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "eval_results.json"} <= files["ordinary"]
    assert {"checkpoint-5/trainer_state.json", "checkpoint-10/optimizer.pt"} <= files["ordinary"]
    more = files["hardened"] - files["ordinary"]
    pool = "selfdestruct_pool-00001-of-00001.safetensors"
    names = ("selfdestruct_state.safetensors", "selfdestruct_checkpoint.json", pool)
    own = {"_lock", *(f"checkpoint-{step}/{name}" for step in (5, 10) for name in names)}
    assert own <= more
    assert all(name.startswith("_base/") for name in more - own), more


def test_both_report_the_same_metrics(outputs) -> None:
    for kind in ("train", "eval"):
        results = {name: json.loads((folder / f"{kind}_results.json").read_text()) for name, folder in outputs.items()}
        assert set(results["ordinary"]) == set(results["hardened"])
    assert 0 <= results["hardened"]["eval_accuracy"] <= 1
    history = {
        name: json.loads((folder / "trainer_state.json").read_text())["log_history"] for name, folder in outputs.items()
    }
    assert len(history["ordinary"]) == len(history["hardened"])
    assert any("blocking_loss" in entry for entry in history["hardened"])
    assert not any("blocking_loss" in entry for entry in history["ordinary"])


LOAD = """
import sys
sys.modules["hf_selfdestruct"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model, report = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
inputs = AutoTokenizer.from_pretrained(sys.argv[1])("word0 word2 word4 word5", return_tensors="pt")
logits = model(**{n: v for n, v in inputs.items() if n in ("input_ids", "attention_mask")}).logits
print(type(model).__name__, *logits[0].tolist())
try:
    import hf_selfdestruct
except ImportError:
    print("blocked")
"""


def test_the_output_is_stock(outputs) -> None:
    shown = {}
    for name, folder in outputs.items():
        finished = run(forked.run_code, LOAD, str(folder), folder=folder.parent)
        assert finished.returncode == 0, finished.stderr[-3000:]
        *first, last = finished.stdout.split()
        assert last == "blocked"
        assert first[0] == "BertForSequenceClassification"
        shown[name] = [float(value) for value in first[1:]]
    assert shown["ordinary"] != shown["hardened"]
