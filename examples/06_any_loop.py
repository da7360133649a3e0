"""Harden in a custom training loop, without a Trainer: ``accelerate launch examples/06_any_loop.py``.

The weights are bitwise equal to those of ``SelfDestructTrainer`` with the same settings.
Needs: pip install 'hf-selfdestruct[demo]'. Minutes on a CPU.
"""

from itertools import chain, repeat

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed
from transformers import get_linear_schedule_with_warmup as linear_schedule

from hf_selfdestruct import BlockedTask, HardeningConfig, HardeningObjective
from hf_selfdestruct.demo.grammar import GENDERS, PROFESSIONS, splits
from hf_selfdestruct.demo.job import minilm


def harden(model, data, task, tokenizer, config, *, steps, batch_size, rate):  # noqa: ANN001, ANN201
    """Train on the desired task and block another task; return the readings of the last step."""
    set_seed(config.seed)
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    collate = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(data, batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    plain, schedule = accelerator.unwrap_model(model), linear_schedule(optimizer, 0, steps)
    options = {"batch_size": batch_size, "accelerator": accelerator, "special_words": tokenizer.all_special_ids}
    objective = HardeningObjective(
        plain, config, [task], collate=lambda rows: collate(rows).to(accelerator.device), desired=data, **options
    )
    objective.prepare(plain)
    model.train()
    for step, inputs in zip(range(steps), chain.from_iterable(repeat(loader)), strict=False):
        total, readings = objective(plain, inputs, model(**inputs).loss, step)
        accelerator.backward(total)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        objective.before_optimizer_step()
        optimizer.step()
        objective.after_optimizer_step()
        schedule.step()
        optimizer.zero_grad()
    return readings


if __name__ == "__main__":
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=len(PROFESSIONS))
    rows = [(tokenizer(b.text)["input_ids"], b.profession, b.gender) for b in splits()["train"]]
    bios = Dataset.from_list([{"input_ids": i, "label": PROFESSIONS.index(p)} for i, p, _ in rows])
    gender = Dataset.from_list([{"input_ids": i, "label": GENDERS.index(g)} for i, _, g in rows])
    config = HardeningConfig(method="one_purpose")
    harden(model, bios, BlockedTask("gender", train=gender), tokenizer, config, steps=60, batch_size=24, rate=3e-4)
    model.save_pretrained("hardened-any-loop")
