"""The setting of ``language.py``: two texts, a tokenizer, a small Llama, and models trained on them.

    python benchmarks/language_setting.py TEXTS OUT

writes base, filtered model and both texts as ``examples/novel.yaml`` reads them.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hf_selfdestruct.demo.language import llama_config, tokenizer_of
from hf_selfdestruct.tasks.texts import packed_rows

WORDS, LENGTH = 2048, 128
KNOWN = 2800  # chunks of the novel that the base is trained on, and hardening has; the rest is an attacker's
EPOCHS, BATCH, RATE, WARM_UP = 4, 16, 3e-3, 100


@dataclass(frozen=True)
class Texts:
    """Rows of tokens ``(rows, 128)``.

    Attributes:
        general: What is desired: Simple English Wikipedia.
        general_test: Articles nobody trains on.
        novel: What is blocked, as the base and hardening have it: the first part of War and Peace.
        attack: What an attacker has: the next part.
        selection: On which an attacker chooses.
        test: The end of the novel, on which attacks are scored.
        tokenizer: Byte-level BPE, trained on ``general`` and ``novel``.
    """

    general: Tensor
    general_test: Tensor
    novel: Tensor
    attack: Tensor
    selection: Tensor
    test: Tensor
    tokenizer: PreTrainedTokenizerFast


def texts(folder: Path) -> Texts:
    """Rows of the folders ``simplewiki_general`` and ``war_and_peace``."""
    wiki, novel = read(folder)
    tokenizer = tokenizer_of(wiki["train"] + novel["train"], WORDS, LENGTH)
    parts = (wiki["train"], wiki["test"], novel["train"], novel["attack"], novel["validation"], novel["test"])
    return Texts(*(torch.tensor(packed_rows(part, tokenizer, LENGTH)["input_ids"]) for part in parts), tokenizer)


def read(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The texts of Wikipedia, and of the novel, whose ``attack`` is cut from ``train``, by split."""
    wiki, novel = (
        {file.stem: pd.read_parquet(file)["text"].tolist() for file in (folder / name).glob("*.parquet")}
        for name in ("simplewiki_general", "war_and_peace")
    )
    return wiki, novel | {"train": novel["train"][:KNOWN], "attack": novel["train"][KNOWN:]}


def fresh(seed: int) -> LlamaForCausalLM:
    """A Llama of four layers and a million weights, with random ones."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config(WORDS, LENGTH, width=128, inner=352, layers=4))


def pretrained(name: str, rows: Tensor) -> LlamaForCausalLM:
    """A model trained on some rows for four epochs; stored in the folder for temporary files."""
    file = Path(tempfile.gettempdir(), f"{name}-{WORDS}-{len(rows)}.pt")
    model = fresh(0)
    if not file.is_file():
        generator = torch.Generator().manual_seed(0)
        steps = EPOCHS * len(rows) // BATCH
        order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(EPOCHS)])
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmed_cosine(steps))
        for few in order[: steps * BATCH].split(BATCH):
            step_on(model, rows[few], optimizer)
            schedule.step()
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def warmed_cosine(steps: int) -> Callable[[int], float]:
    """A rate that rises for 100 steps and falls to a tenth along a cosine."""

    def factor(step: int) -> float:
        fallen = torch.cos(torch.tensor(torch.pi * step / steps)).item()
        return min(1.0, (step + 1) / WARM_UP) * (0.55 + 0.45 * fallen)

    return factor


def step_on(model: LlamaForCausalLM, rows: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step on rows, gradients clipped to 1."""
    optimizer.zero_grad()
    model(input_ids=rows, labels=rows).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def loss(model: LlamaForCausalLM, rows: Tensor) -> float:
    """Mean loss on rows, in nats per token."""
    with torch.no_grad():
        found = [model(input_ids=few, labels=few).loss.item() * len(few) for few in rows.split(32)]
    return sum(found) / len(rows)


def write(texts_folder: str, out: str) -> None:
    """Write models and texts for a configuration; an attacker has and chooses on ``validation``."""
    data, (wiki, novel) = texts(Path(texts_folder)), read(Path(texts_folder))
    for name, known in {"base": torch.cat([data.general, data.novel]), "filtered": data.general}.items():
        pretrained(f"novel-{name}", known).save_pretrained(Path(out, name))
        data.tokenizer.save_pretrained(Path(out, name))
    novel["validation"] = novel.pop("attack") + novel["validation"]
    for name, found in {"wiki": wiki, "novel": novel}.items():
        Path(out, name).mkdir(exist_ok=True)
        for split, rows in found.items():
            pd.DataFrame({"text": rows}).to_parquet(Path(out, name, f"{split}.parquet"))


if __name__ == "__main__":
    write(*sys.argv[1:])
