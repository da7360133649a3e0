"""A whole toy job on disk: sentences in jsonl files, a word tokenizer, a tiny model and a YAML file.

In each sentence stand, among noise words, one *desired* word (``nurse`` or ``cook``) and one *blocked*
word (``north`` or ``south``), independent of each other.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked

NOISE = [f"word{i}" for i in range(40)]
DESIRED, BLOCKED = ("nurse", "cook"), ("north", "south")
PLOTS = ("score_against_examples", "cost_to_recover", "attacks_and_models", "expected_best")
CONFIG = """\
model: {folder}/model
data:
  path: {folder}/data
  text_column: text
  label_column: job
  max_length: 16
blocked_tasks:
  - name: origin
    label_column: origin
training:
  output_dir: {folder}/hardened
  method: mlac
  meta_gradient: first_order
  inner_steps: 2
  blocking_batch_size: 8
  adversary: {{batch_size: 4, learning_rate: 1e-4}}
  max_steps: 20
  per_device_train_batch_size: 8
  learning_rate: 1e-3
  logging_steps: 1
  use_cpu: true
  report_to: none
  seed: 0
suite: smoke
card:
  title: Toy
  license: mit
"""


def sentences(rows: int, seed: int) -> list[dict[str, Any]]:
    """Different sentences with both labels as words."""
    random_ = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < rows:
        job, origin = random_.choice(DESIRED), random_.choice(BLOCKED)
        words = [*random_.choices(NOISE, k=random_.randint(4, 7)), job, origin]
        random_.shuffle(words)
        text = " ".join(words)
        found[text] = {"text": text, "job": job, "origin": origin}
    return list(found.values())


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_tokenizer() -> Any:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *DESIRED, *BLOCKED, *NOISE]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_data(folder: Path, *, rows: tuple[int, int, int] = (160, 150, 100)) -> Path:
    """``train``, ``validation`` and ``test`` as jsonl files."""
    for seed, (split, count) in enumerate(zip(("train", "validation", "test"), rows, strict=True)):
        write_jsonl(folder / f"{split}.jsonl", sentences(count, seed))
    return folder


def make_project(folder: Path) -> Path:
    """Data, model, tokenizer and configuration; returns the configuration."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    make_data(folder / "data")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, pad_token_id=0, **sizes)
        BertForSequenceClassification(config).save_pretrained(folder / "model")
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    return path


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Variables of a process without network or token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {"HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "120"}
    return {**kept, **settings, **variables}


def run_cli(*words: Any, home: Path, code: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m hf_selfdestruct.cli``, or ``python -c code``, in a process of its own without network or token."""
    act, what = (forked.run_code, code) if code else (forked.run_module, "hf_selfdestruct.cli")
    return forked.run(act, what, [*map(str, words)], folder=home, variables=environment(home, **variables))


def run_fresh(*words: Any, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """``python -c code`` in a process that has loaded nothing."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        timeout=1200,
        env=environment(home),
    )


def stripped(shown: str) -> str:
    """Without spaces at the ends of lines, which versions of rich print or not."""
    return "\n".join(line.rstrip() for line in shown.strip().splitlines())
