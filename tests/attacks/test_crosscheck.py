"""The same fine-tuning by the stock ``transformers.Trainer`` and by our loop agree within seed noise."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_selfdestruct.attacks import FullFineTuning, Trial

SEEDS = 6
SETTINGS = {"learning_rates": (2e-3,), "steps": (40,), "batch_size": 16, "looks": 1}


def by_trainer(target, data, seed, folder):
    """AdamW without decay of its own, linear schedule, a tenth of warm-up, norm 1: the same recipe, not our code."""
    few = data.few(100, seed)
    rows = Dataset.from_list([{**data.train.features[i], "labels": int(data.train.labels[i])} for i in few])
    arguments = TrainingArguments(
        str(folder),
        max_steps=40,
        per_device_train_batch_size=16,
        learning_rate=2e-3,
        weight_decay=0.01,  # torch's default for AdamW
        lr_scheduler_type="linear",
        warmup_steps=4,
        max_grad_norm=1.0,
        seed=seed,
        data_seed=seed,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = target.load(data.num_labels, seed)
    Trainer(model, arguments, train_dataset=rows, data_collator=data.collate).train()
    model.eval()
    with torch.no_grad():
        logits = [
            model(**{k: v for k, v in data.collate([row]).items() if k != "labels"}).logits
            for row in data.test.features
        ]
    return float((torch.cat(logits).argmax(1).numpy() == data.test.labels).mean())


def test_stock_trainer_and_our_loop_agree_within_seed_noise(target, readable, tmp_path):
    attack = FullFineTuning(**SETTINGS)
    (settings,) = attack.space()
    ours = [
        attack.run(Trial(target, readable, examples=100, seed=s, settings=settings)).test.accuracy for s in range(SEEDS)
    ]
    theirs = [by_trainer(target, readable, s, tmp_path) for s in range(SEEDS)]
    assert 0.6 < np.mean(theirs) < 0.99, "a task on which a difference would be seen"
    noise = np.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / SEEDS)
    assert abs(np.mean(ours) - np.mean(theirs)) < 3 * noise + 0.01
    assert np.std(ours) > 0
    assert np.std(theirs) > 0
