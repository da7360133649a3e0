"""Harden a language model: Python's reference in English stays, its code is blocked.

Both texts come with Python. The model is a small Llama that the example trains first; replace it by any causal language
model and its tokenizer. Minutes on a CPU.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.demo.language import write_models
from hf_selfdestruct.demo.stdlib_texts import code, reference
from hf_selfdestruct.losses import NegativeCrossEntropy
from hf_selfdestruct.tasks.language_modeling import LanguageModeling
from hf_selfdestruct.tasks.texts import packed_rows, token_bytes

# 1. A base that knows both texts, and a reference for the judge that never saw the blocked one.
texts, blocked = reference(), code()
base, filtered = write_models(Path("language-models"), texts["train"], blocked["train"])
model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)

# 2. Rows of tokens: to stay good at, and to block.
rows = {split: packed_rows(found, tokenizer, 64) for split, found in texts.items()}
task = BlockedTask(
    "code",
    train=packed_rows(blocked["train"], tokenizer, 64),
    attack=packed_rows(blocked["validation"], tokenizer, 64),
    test=packed_rows(blocked["test"], tokenizer, 64),
    label_column="labels",
    kind=LanguageModeling(token_bytes(tokenizer)),
)

# 3. An adversary that continues over steps. It is pushed until it is as ignorant as the filtered model, and no further.
trainer = SelfDestructTrainer(
    model,
    SelfDestructTrainingArguments(
        "hardened-language-model",
        method="language",
        method_options={"max_blocking_grad_norm": 1.0},
        max_steps=250,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        logging_steps=25,
    ),
    train_dataset=rows["train"],
    eval_dataset=rows["validation"],
    blocked_tasks=[task],
    blocking_losses=[NegativeCrossEntropy(ceiling=6.0)],  # nats per token
    processing_class=tokenizer,
)
trainer.train()

# 4. Attack it beside base, undefended sibling, filtered model and random weights.
report = trainer.attack("language_glance", filtered=str(filtered), desired_dataset=rows["test"])
sys.stdout.write(report.table() + "\n")
