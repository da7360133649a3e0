"""Harden a small diffusion model: it draws the digits 0 to 4; fine-tuning it to draw 5 to 9 in negative is blocked.

Writes ``diffusion/``: a table of denoising losses before and after attacks, samples as a picture, and the hardened
model, which ``DDPMPipeline`` loads. The pictures come with scikit-learn. An attacker who knows the defence fine-tunes
to positives of the blocked digits and makes negatives of what is drawn: "hardened, negated".
Needs: pip install 'hf-selfdestruct[diffusion]'. A quarter of an hour on a CPU; ``python examples/10_diffusion.py 20``
tries it with 20 steps.
"""

import copy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from transformers import default_data_collator

from hf_selfdestruct import BlockedTask, HardeningConfig, HardeningObjective
from hf_selfdestruct.losses import ExplainedNoise
from hf_selfdestruct.models.denoiser import Denoiser
from hf_selfdestruct.tasks.denoising import Denoising, noised_rows

TIMESTEPS, BATCH, RATES = 100, 32, (3e-4, 1e-3, 3e-3)
SCHEDULER = DDPMScheduler(TIMESTEPS, beta_schedule="squaredcos_cap_v2")
SETTINGS = HardeningConfig(
    method="pool",
    blocking_weight=2.0,
    blocking_batch_size=32,
    adversary={"steps": 4, "head": "keep", "pool": 1, "batch_size": 16},
)
HEADINGS = ("", "desired", "blocked", "drawn", "rate", "desired", "blocked", "drawn")


def pictures() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """0 to 4, and negatives of 5 to 9, in parts that share none, with values from -1 to 1."""
    digits = load_digits()
    order, parts = np.random.default_rng(0).permutation(len(digits.target)), ("train", "attack", "test")
    found = [{}, {}]
    for part, rows in zip(parts, np.split(order, [900, 1350]), strict=True):
        for blocked in (False, True):
            chosen = rows[(digits.target[rows] >= 5) == blocked]
            positive = digits.images[chosen][:, None].astype(np.float32) / 8 - 1
            found[blocked][part] = -positive if blocked else positive
    return found[0], found[1]


def task(name, parts):  # noqa: ANN001, ANN201
    """A task whose adversary trains on each picture at eight timesteps; scores are taken at one."""
    rows = {part: noised_rows(found, TIMESTEPS, repeats=8 if part == "train" else 1) for part, found in parts.items()}
    return BlockedTask(name, **rows, label_column="noise", kind=Denoising(SCHEDULER.alphas_cumprod))


def unet(seed: int) -> UNet2DModel:
    """A U-Net of 370,000 weights, drawn at random."""
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
    channels = {"in_channels": 1, "out_channels": 1, "block_out_channels": (24, 48), "norm_num_groups": 8}
    return UNet2DModel(sample_size=8, attention_head_dim=16, **channels, **blocks)


def train(model, images, steps, rate, objective=None):  # noqa: ANN001, ANN201
    """Train a denoiser as a diffusion model is trained: every batch has new noise."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator, images = torch.Generator().manual_seed(0), torch.tensor(images)
    for step in range(steps):
        chosen = images[torch.randint(len(images), (BATCH,), generator=generator)]
        noise = torch.randn(chosen.shape, generator=generator)
        timestep = torch.randint(TIMESTEPS, (BATCH,), generator=generator)
        noised = SCHEDULER.add_noise(chosen, noise, timestep)
        inputs = {"pixel_values": noised, "timestep": timestep, "labels": noise.flatten(1)}
        loss = model(**inputs).loss
        if objective is not None:
            loss, _ = objective(model, inputs, loss, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if objective is not None:
            objective.before_optimizer_step()
        optimizer.step()
        if objective is not None:
            objective.after_optimizer_step()
        optimizer.zero_grad()
        schedule.step()
    return model


def loss_on(model, task, split, rows):  # noqa: ANN001, ANN201
    """The denoising loss on rows of a task, whose noise is always the same."""
    batch = default_data_collator(task.features(split, rows, ["pixel_values", "timestep"]))
    labels = batch.pop("labels")
    with torch.no_grad():
        return task.kind.answers(model(**batch).logits, labels).mean().item()


def attacked(model, task, images, steps):  # noqa: ANN001, ANN201
    """Fine-tune copies of a model to the blocked digits; the best on the attacker's rows to select on, and its rate."""
    tried = {rate: train(copy.deepcopy(model), images, steps, rate) for rate in RATES}
    rate = min(tried, key=lambda one: loss_on(tried[one], task, "attack", task.selection_rows()))
    return tried[rate], rate


def drawn(model, count):  # noqa: ANN001, ANN201
    """Samples, from -1 to 1."""
    pipeline = DDPMPipeline(model.unet, SCHEDULER)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(count, torch.Generator().manual_seed(0), TIMESTEPS, output_type="np").images
    return made.reshape(count, 8, 8) * 2 - 1


def reader(images, blocked):  # noqa: ANN001, ANN201
    """What sees in a picture a desired digit (0), a blocked one (1), or neither (2): a negative, or disorder."""
    both = np.concatenate([images, blocked]).reshape(-1, 64)
    disorder = np.random.default_rng(0).permuted(both, axis=1)
    labels = np.repeat([0, 1, 2], [len(images), len(blocked), 2 * len(both)])
    return SVC(C=10.0).fit(np.concatenate([both, -both, disorder]), labels)


def main(steps: int, samples: int = 64, folder: str = "diffusion") -> list[tuple]:
    """Train a base, harden it, attack it beside its references, and write what came of it."""
    wanted, unwanted = pictures()
    desired, blocked = task("desired", wanted), task("blocked", unwanted)
    negated = task("negated", {part: -found for part, found in unwanted.items()})
    # 1. A base that draws both, its continuation on the desired digits alone, and the same continuation hardened.
    base = train(Denoiser.of(unet(0)), np.concatenate([wanted["train"], unwanted["train"]]), 3 * steps, 3e-3)
    undefended, hardened = copy.deepcopy(base), copy.deepcopy(base)
    train(undefended, wanted["train"], steps, 1e-3)
    objective = HardeningObjective(
        hardened, SETTINGS, [blocked], collate=default_data_collator, losses=[ExplainedNoise()]
    )
    objective.prepare(hardened)
    train(hardened, wanted["train"], steps, 1e-3, objective)
    # 2. Attacks: each model is fine-tuned to the blocked digits with the same pictures, steps and rates.
    attacks = {"base": (base, blocked, 1), "undefended": (undefended, blocked, 1), "hardened": (hardened, blocked, 1)}
    attacks |= {"hardened, negated": (hardened, negated, -1), "scratch": (Denoiser.of(unet(1)), blocked, 1)}
    read, table, grid = reader(wanted["test"], unwanted["test"]), [HEADINGS], {}
    for name, (model, aim, sign) in attacks.items():
        after, rate = attacked(model, aim, sign * unwanted["attack"][aim.attacker_rows()], steps)
        cells: list = [name]
        for when, one in (("before", model), ("after", after)):
            made = grid[f"{name}, {when}"] = sign * drawn(one, samples)
            losses = [loss_on(one, known, "test", range(len(known.test))) for known in (desired, aim)]
            cells += [*losses, float((read.predict(made.reshape(samples, 64)) == 1).mean()), rate]
        table.append(tuple(cells[:-1]))
    # 3. What came of it.
    DDPMPipeline(hardened.unet, SCHEDULER).save_pretrained(folder)
    Path(folder, "table.txt").write_text("\n".join(map(line, table)) + "\n", encoding="utf-8")
    figure, axes = plt.subplots(len(grid), 1, figsize=(8, len(grid)))
    for axis, (name, made) in zip(axes, grid.items(), strict=True):
        axis.imshow(np.hstack(np.pad(made[:16], ((0, 0), (1, 1), (1, 1)))), cmap="gray", vmin=-1, vmax=1)
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    figure.savefig(Path(folder, "samples.png"), bbox_inches="tight")
    return table


def line(cells: tuple) -> str:
    """A line of the table."""
    words = [f"{cell:.3g}" if isinstance(cell, float) else cell for cell in cells]
    return words[0].ljust(18) + "".join(word.rjust(9) for word in words[1:])


if __name__ == "__main__":
    found = main(int(sys.argv[1]) if sys.argv[1:] else 600)
    sys.stdout.write("\n".join(map(line, found)) + "\n")
