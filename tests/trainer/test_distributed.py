"""Two real processes: ranks stay bitwise in sync, and share the attacks."""

import json

import pytest
from launched import launch

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification
from launched import digest_of
from toy_models import TINY_SUITE
from train_together import state_of
from hf_selfdestruct.losses.keeping import HiddenStateDistillation
from hf_selfdestruct import Adversary, BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments

def rows(count, seed):
    ids = torch.randint(5, 60, (count, 8), generator=torch.Generator().manual_seed(seed))
    return Dataset.from_dict({
        "input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(),
        "label": (ids[:, 0] % 3).tolist(), "blocked": (ids[:, 1] % 2).tolist(),
    })

torch.manual_seed(0)
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=60)
model = BertForSequenceClassification(BertConfig(num_labels=3, **sizes))
args = SelfDestructTrainingArguments(
    sys.argv[1], method="mlac", meta_gradient=sys.argv[2], inner_steps=2, max_steps=3, gradient_accumulation_steps=2,
    per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, learning_rate=1e-3, save_strategy="no",
)
task = BlockedTask("b", train=rows(120, 1), attack=rows(60, 2), test=rows(60, 3), label_column="blocked")
options = {}
if sys.argv[3] == "several":
    options = dict(
        adversaries=[
            Adversary(steps=2, learns_rate=True),
            Adversary(steps=1, trainable="lora"),
            Adversary(head="random", steps=1),
        ],
        keeping_losses=[HiddenStateDistillation()],
        keep_dataset=rows(40, 7).select_columns(["input_ids"]),
    )
trainer = SelfDestructTrainer(
    model, args, train_dataset=rows(96, 4), eval_dataset=rows(20, 5), blocked_tasks=[task], **options
)
numbers = [trainer.objective.simulator.draw(step).number for step in range(3)]
trainer.objective.simulator._last = (-1, 0)
start = {n: p.detach().clone() for n, p in model.named_parameters()}
trainer.train()
digest = digest_of(state_of(trainer))
report = trainer.attack(TINY_SUITE)
Path(sys.argv[1], f"rank{args.process_index}.json").write_text(json.dumps({
    "world": args.world_size, "digest": digest, "runs": len(report.runs),
    "still": [n for n, p in model.named_parameters() if torch.equal(p, start[n])],
    "numbers": numbers,
    "key": str(trainer.objective.simulator.draw(0).key),
}))
"""


@pytest.mark.parametrize(
    ("meta_gradient", "adversaries"), [("exact", "one"), ("first_order", "one"), ("exact", "several")]
)
def test_two_processes_stay_in_sync(tmp_path, meta_gradient, adversaries):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launch(script, str(tmp_path / "out"), meta_gradient, adversaries, processes=2)
    assert done.returncode == 0, done.stderr[-20_000:]
    first, second = (json.loads((tmp_path / "out" / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == second["world"] == 2
    assert first["digest"] == second["digest"]  # weights, learned head, learned rate and its moments
    assert first["still"] == []
    assert first["runs"] == second["runs"] == 4 * 4 + 12 + 1  # four models, the raw input, scratch again
    assert first["key"] != second["key"]  # each rank simulates its own adversary
    assert (first["numbers"] != second["numbers"]) == (adversaries == "several")
