"""Harden a sentence encoder in Python, step by step, on generated biographies.

Needs: pip install 'hf-selfdestruct[demo]'. Minutes on a CPU.
"""

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.demo.grammar import GENDERS, PROFESSIONS, splits
from hf_selfdestruct.demo.job import minilm

# 1. The data: `label` is the desired task, `gender` the blocked one.
bios = DatasetDict(
    {
        split: Dataset.from_dict(
            {
                "text": [b.text for b in rows],
                "label": [PROFESSIONS.index(b.profession) for b in rows],
                "gender": [GENDERS.index(b.gender) for b in rows],
            }
        )
        for split, rows in splits().items()
    }
)

# 2. Model and tokenizer, as for any Trainer.
tokenizer = AutoTokenizer.from_pretrained(minilm())
model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=len(PROFESSIONS))
bios = bios.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=64), batched=True)

# 3. The blocked task, and the rows of adversary, attacker and report.
gender = BlockedTask(
    "gender",
    train=bios["train"],  # the simulated adversary
    attack=bios["validation"],  # the attacks after training
    test=bios["test"],  # the scores in the report
    label_column="gender",
    num_labels=2,
)

# 4. The Trainer, with the two class names changed and `blocked_tasks` added.
args = SelfDestructTrainingArguments(
    "hardened-grammar",
    method="one_purpose",  # use "general" if users fine-tune the model to other tasks
    max_steps=60,
    per_device_train_batch_size=24,
    learning_rate=3e-4,
    logging_steps=5,
)
trainer = SelfDestructTrainer(
    model,
    args,
    train_dataset=bios["train"],
    eval_dataset=bios["validation"],
    blocked_tasks=[gender],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())},
)
trainer.train()

# 5. Train the undefended model, attack all models, and write report, plots and card.
report = trainer.attack("smoke", card={"title": "MiniLM, gender blocked"})
report.save("hardened-grammar-report.json")
