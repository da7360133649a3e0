"""Harden a bare encoder without a desired task: preserve its embeddings, block gender.

Needs: pip install 'hf-selfdestruct[demo]'. Minutes on a CPU.
"""

from datasets import Dataset, DatasetDict
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding

from hf_selfdestruct import Adversary, BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries import AdamW, Range
from hf_selfdestruct.demo.grammar import GENDERS, splits
from hf_selfdestruct.demo.job import minilm
from hf_selfdestruct.losses import (
    EmbeddingDistillation,
    HeadAdjustedCrossEntropy,
    HiddenStateDistillation,
    RepresentationProbe,
)

# 1. A bare trunk, and biographies with the blocked label.
tokenizer = AutoTokenizer.from_pretrained(minilm())
model = AutoModel.from_pretrained(minilm())
bios = DatasetDict(
    {
        split: Dataset.from_dict({"text": [b.text for b in rows], "gender": [GENDERS.index(b.gender) for b in rows]})
        for split, rows in splits().items()
    }
)
bios = bios.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=64), batched=True)
gender = BlockedTask(
    "gender", train=bios["train"], attack=bios["validation"], test=bios["test"], label_column="gender", num_labels=2
)

# 2. The adversaries: full fine-tuning, adapters, head only.
adversaries = [
    Adversary(learning_rate=Range(1e-5, 1e-3), steps=(2, 4), head="random", weight=2.0),
    Adversary(optimizer=AdamW(), learning_rate=Range(1e-4, 1e-2), steps=4, trainable="lora"),
    Adversary(learning_rate=1e-2, steps=4, trainable="head"),
]

# 3. Without labels and head, the keeping losses are the desired loss.
trainer = SelfDestructTrainer(
    model,
    SelfDestructTrainingArguments(
        "hardened-encoder",
        method="mlac",
        meta_gradient="exact",
        method_options={"hvp": "finite_difference"},
        keeping_weight=10.0,
        max_steps=15,
        learning_rate=5e-5,
        logging_steps=5,
    ),
    train_dataset=bios["train"].select_columns(["input_ids", "attention_mask"]),
    blocked_tasks=[gender],
    adversaries=adversaries,
    blocking_losses=[HeadAdjustedCrossEntropy(), RepresentationProbe(weight=0.5)],
    keeping_losses=[HiddenStateDistillation(), EmbeddingDistillation()],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer),
)
trainer.train()

# 4. Save a stock folder: AutoModel.from_pretrained("hardened-encoder") loads it without this package.
trainer.save_model()
