"""One measurement of ``meta_gradient.py``, in a process of its own: one outer step by one method, or the unit.

Whatever the method, the outer step is the same: all-MiniLM-L6-v2 from the ``demo`` extra, all of it moving, a
2-class head drawn from a seed, Adam, batches of 16 rows of 64 tokens, dropout off, and the mean over theta_0 ..
theta_K of ``UniformKL`` on 16 held-out rows. Token ids follow Zipf's law, as words do.

    python benchmarks/outer_steps.py '{"method": "first_order", "inner_steps": 1}'
"""

import ctypes
import dataclasses
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_selfdestruct import BlockedTask, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries.adversary import Adversary
from hf_selfdestruct.adversaries.optimizers import Adam
from hf_selfdestruct.demo.job import minilm
from hf_selfdestruct.models.stateless import OWN

BATCH, LENGTH, RATE, SEED = 16, 64, 1e-4, 0
FIRST_WORD, LAST_WORD, START = 1000, 30521, 101  # of BERT's vocabulary, which is sorted by frequency


def ours(meta_gradient: str, **options: str) -> dict[str, Any]:
    """Settings of one of our ways to the meta-gradient."""
    return {"meta_gradient": meta_gradient, "method_options": {"step_weights": "uniform", **options}}


OURS = {
    "exact_fd": ours("exact", hvp="finite_difference"),
    "exact_fd_recompute": ours("exact", hvp="finite_difference", trajectory="recompute"),
    "exact_fd_logarithmic": ours("exact", hvp="finite_difference", trajectory="logarithmic"),
    "exact_db": ours("exact", hvp="double_backward"),
    "exact_db_recompute": ours("exact", hvp="double_backward", trajectory="recompute"),
    "unrolled": ours("unrolled"),
    "first_order": ours("first_order"),
}
PEERS = ("higher", "torchopt")
UNITS = {"unit_fused": "sdpa", "unit_eager": "eager", "trainer_fused": "sdpa", "trainer_eager": "eager"}
Weights = dict[str, Tensor]
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        method: A key of ``OURS`` or ``UNITS``, or one of ``PEERS``.
        inner_steps: K.
        repeat: Which of several equal measurements.
        error: Compare the gradient with ``unrolled`` in float64, instead of taking time and memory.
        dtype: ``float32`` or ``float64``.
        epsilon: Of Adam.
        layers: Layers kept of the model, to try things out; 0 means all.
    """

    method: str
    inner_steps: int = 0
    repeat: int = 0
    error: bool = False
    dtype: str = "float32"
    epsilon: float = 1e-6
    layers: int = 0

    def reference(self) -> Path:
        """Where the float64 gradient of ``unrolled`` is kept."""
        name = f"meta-gradient-{self.inner_steps}-{self.epsilon}-{self.layers}.pt"
        return Path(tempfile.gettempdir(), name)


@dataclass(frozen=True)
class Problem:
    """Everything an outer step depends on, as peers take it.

    Attributes:
        model: The published weights under the adversary's head, in evaluation mode, all requiring gradients.
        head: Names of the head's weights, which are the adversary's own.
        batches: Batches of the K inner steps.
        held_out: Batch on which the blocking loss is measured.
        learning_rate: Of Adam.
        epsilon: Of Adam, outside the square root.
    """

    model: PreTrainedModel
    head: frozenset[str]
    batches: list[Batch]
    held_out: Batch
    learning_rate: float
    epsilon: float

    def blocking_loss(self, logits: Tensor) -> Tensor:
        """``KL(U || p)``, written out: peers use nothing of this package."""
        return -log_softmax(logits, dim=-1).mean() - torch.tensor(float(logits.shape[-1])).log().item()

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """A batch without its labels."""
        return {name: value for name, value in batch.items() if name != "labels"}


def rows(count: int, seed: int) -> Dataset:
    """Rows of tokens by Zipf's law, with a label each for the desired and the blocked task."""
    generator = torch.Generator().manual_seed(seed)
    chances = 1 / torch.arange(1, LAST_WORD - FIRST_WORD + 2, dtype=torch.float64)
    words = torch.multinomial(chances.repeat(count, 1), LENGTH - 1, replacement=True, generator=generator)
    ids = torch.cat([torch.full((count, 1), START), words + FIRST_WORD], dim=1)
    columns = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "label": ids[:, 1] % 2,
        "blocked": ids[:, 2] % 2,
    }
    return Dataset.from_dict({name: value.tolist() for name, value in columns.items()})


def load(job: Job, attention: str) -> PreTrainedModel:
    """The model with a 2-class head for its desired task and no dropout.

    Its config says float32 even where the weights are float64, so that the adversary's head, which is drawn in the
    config's type, is the same in both.
    """
    torch.manual_seed(SEED)
    fewer = {"num_hidden_layers": job.layers} if job.layers else {}
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm(),
        num_labels=2,
        attn_implementation=attention,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **fewer,
    )
    return model.to(getattr(torch, job.dtype))


def trainer(job: Job, model: PreTrainedModel, folder: str) -> SelfDestructTrainer:
    """The product's own trainer, set up for the outer step."""
    arguments = SelfDestructTrainingArguments(
        folder,
        **OURS.get(job.method, OURS["first_order"]),
        use_cpu=True,
        seed=SEED,
        blocking_loss="uniform_kl",
        blocking_batch_size=BATCH,
        per_device_train_batch_size=BATCH,
    )
    adversary = Adversary(
        optimizer=Adam(epsilon=job.epsilon), learning_rate=RATE, steps=job.inner_steps, batch_size=BATCH, head="random"
    )
    task = BlockedTask("blocked", train=rows(50 * BATCH, SEED + 1), label_column="blocked", num_labels=2)
    return SelfDestructTrainer(
        model, arguments, train_dataset=rows(BATCH, SEED + 2), blocked_tasks=[task], adversaries=[adversary]
    )


def outer_step(job: Job, folder: str) -> tuple[Callable[[], Weights], dict[str, Any]]:
    """The outer step as a function to the meta-gradient, by names of weights; and its size."""
    model = load(job, "eager" if job.method in PEERS else "sdpa")
    made = trainer(job, model, folder)
    draw = made.objective.simulator.draw(0)
    scene = made.objective.simulator.builder(model, draw)
    episode = scene.episode()
    sizes = {
        "parameters": sum(p.numel() for p in model.base_model.parameters()),
        "moving": sum(w.numel() for n, w in {**episode.published, **episode.own}.items() if n in episode.moving),
    }
    if job.method not in PEERS:
        return lambda: made.objective.simulator.meta_gradient(model, draw).weights, sizes
    import peers

    own = {name.removeprefix(OWN): value for name, value in episode.own.items()}
    model.load_state_dict(own, strict=False)
    problem = Problem(model.eval(), frozenset(own), scene.blocked, scene.held_out, RATE, job.epsilon)
    return lambda: getattr(peers, f"by_{job.method}")(problem), sizes


def timed(step: Callable[[], Weights]) -> dict[str, float]:
    """Seconds of the second of two outer steps; and how much memory they took over what was resident before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    base = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    start, used = time.perf_counter(), time.process_time()
    step()
    found = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    return {**found, "base_mb": base, "peak_mb": resident("VmHWM") - base}


def resident(kind: str) -> float:
    """Resident memory of this process in MB: now (``VmRSS``) or at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) * 1024 / 1e6


def compared(job: Job, weights: Weights) -> dict[str, float]:
    """Distance of a meta-gradient from the reference, which ``unrolled`` in float64 makes."""
    found = torch.cat([weights[name].detach().double().reshape(-1) for name in sorted(weights)])
    path = job.reference()
    if job.method == "unrolled" and job.dtype == "float64":
        torch.save(found, path)
    wanted = torch.load(path, weights_only=True)
    return {
        "cosine": torch.nn.functional.cosine_similarity(found, wanted, dim=0).item(),
        "relative_error": ((found - wanted).norm() / wanted.norm()).item(),
        "norm": wanted.norm().item(),
    }


def unit(job: Job, folder: str, count: int = 8, warm: int = 3) -> dict[str, float]:
    """Median seconds of a plain forward and backward, or of a plain training step of ``Trainer``."""
    model, data = load(job, UNITS[job.method]), rows(BATCH, SEED + 1)
    if job.method.startswith("trainer"):
        seconds = trained(model, data, folder, count + warm)
    else:
        columns = {name: torch.tensor(data[name][:]) for name in ("input_ids", "attention_mask", "label")}
        labels, seconds = columns.pop("label"), []
        for _ in range(count + warm):
            model.zero_grad()
            start = time.perf_counter()
            model(**columns, labels=labels).loss.backward()
            seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[warm:])}


def trained(model: PreTrainedModel, data: Dataset, folder: str, count: int) -> list[float]:
    """Seconds of each of ``count`` training steps of ``Trainer``, AdamW step included."""
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks[-1] += time.perf_counter()

    arguments = TrainingArguments(
        folder, max_steps=count, per_device_train_batch_size=BATCH, use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    Trainer(model, arguments, train_dataset=data, callbacks=[Clock()]).train()
    return marks


def machine() -> dict[str, Any]:
    """Where and with what this is measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    text = f"{os.cpu_count()} x {name}, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"
    return {"machine": text, "torch": torch.__version__, "threads": torch.get_num_threads()}


def main() -> None:
    """Measure one job and write it down as one line."""
    job, load = Job(**json.loads(sys.argv[1])), os.getloadavg()[0]
    sizes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if job.method in UNITS:
            found = unit(job, folder)
        else:
            step, sizes = outer_step(job, folder)
            found = compared(job, step()) if job.error else timed(step)
    record = {
        **dataclasses.asdict(job),
        **found,
        **sizes,
        **machine(),
        "load": load,
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }
    sys.stdout.write(f"\n{json.dumps(record)}\n")


if __name__ == "__main__":
    main()
