"""Run an attack suite alone, on images: how much does a digit classifier help an attacker with another task?

The example trains a model on scikit-learn's handwritten digits; replace it by any folder or Hub id of an image or text
classifier. About two minutes on a CPU.
"""

import torch
from datasets import Dataset
from sklearn.datasets import load_digits
from transformers import ResNetConfig, ResNetForImageClassification, default_data_collator

from hf_selfdestruct import BlockedTask
from hf_selfdestruct.attacks import AttackSuite, Entry, FullFineTuning, HeadOnly, Target

# 1. Digits as images with three channels; the attacked task is whether a digit is at least five.
digits = load_digits()
pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None].repeat(1, 3, 2, 2) / 8 - 1


def split(rows: slice, labels: list[int]) -> Dataset:
    """Return a slice of the images with labels."""
    return Dataset.from_dict({"pixel_values": pixels[rows].tolist(), "label": labels[rows]})


large = [int(label >= 5) for label in digits.target]
task = BlockedTask(
    "large",
    train=split(slice(0, 600), large),
    attack=split(slice(600, 1000), large),
    test=split(slice(1000, None), large),
)

# 2. Train and save the published model: a classifier of even and odd digits.
torch.manual_seed(0)
model = ResNetForImageClassification(
    ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=2)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
even = torch.tensor(digits.target % 2)
for _ in range(150):
    batch = torch.randint(0, 600, (32,))
    model(pixel_values=pixels[batch], labels=even[batch]).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.save_pretrained("digits-model")

# 3. Run a custom suite on the published model and on random weights of the same architecture.
suite = AttackSuite(
    "digits",
    1,
    (
        Entry(HeadOnly(every_layer=True), (20, 100, None)),
        Entry(FullFineTuning(learning_rates=(3e-4, 3e-3), steps=(60,)), (None,)),
    ),
    more=None,
)
report = suite.run(
    [Target("hardened", "digits-model"), Target("scratch", "digits-model", random=True)],
    [task],
    columns=["pixel_values"],
    collate=default_data_collator,
    storage="sqlite:///digits.db",
)
report.save("digits-report.json")  # hf-selfdestruct report digits-report.json --plots digits-plots
