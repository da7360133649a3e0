"""The example of images: ImageNet's weights in a stock model, the pictures of two tasks, and a step of hardening."""

import io
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hf_selfdestruct.jobs.config import load_config
from hf_selfdestruct.jobs.job import examples, trained
from hf_selfdestruct.jobs.processors import processor_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lite(monkeypatch):
    for folder in ("examples", "benchmarks"):
        monkeypatch.syspath_prepend(ROOT / folder)
    import efficientnet_lite0

    return efficientnet_lite0


def test_it_computes_what_the_network_without_gates_computes(lite):
    """Beside blocks written out in another file, with ReLU6, no gates, and padding as in TensorFlow."""
    from efficientnet_lite import random

    twin = random(4, 0).eval()
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    model = lite.efficientnet_lite0(labels=7).eval()
    lite.fill(model, own_names(lite, model) | twin.trunk.state_dict())
    pixels = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        found = model(pixels, output_hidden_states=True)
        assert torch.allclose(found.hidden_states[11].mean((2, 3)), twin.trunk(pixels), atol=1e-4, rtol=1e-4)
    assert found.logits.shape == (3, 7)


def own_names(lite, model):
    """A model's weights under the package's names, but for the gates, which the package does not have."""
    parts = {new: old for old, new in lite.PARTS.items()}
    around = {new: old for old, new in lite.AROUND.items()}
    found = {}
    for name, value in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        if stem in around:
            found[f"{around[stem]}.{kind}"] = value
        elif "squeeze_excite" not in name:
            number, _, part = stem.removeprefix("efficientnet.encoder.blocks.").partition(".")
            found[f"_blocks.{number}.{parts[part]}.{kind}"] = value
    return found


def test_gates_are_open_and_stay_so(lite):
    model = lite.efficientnet_lite0(labels=2)
    lite.fill(model, own_names(lite, model))
    gates = {n: w for n, w in model.named_parameters() if "squeeze_excite" in n}
    assert all(torch.sigmoid(w).eq(1).all() for n, w in gates.items() if n.endswith("expand.bias"))
    model(torch.randn(2, 3, 64, 64), labels=torch.tensor([0, 1])).loss.backward()
    assert max(w.grad.abs().max() for w in gates.values()) == 0, "Adam would make whole steps of any other"
    others = [w for n, w in model.named_parameters() if n not in gates]
    assert all(w.grad.abs().max() > 0 for w in others)


def test_a_weight_without_a_place_is_refused(lite):
    model = lite.efficientnet_lite0(labels=2)
    weights = own_names(lite, model)
    weights.pop("_fc.bias")
    with pytest.raises(RuntimeError, match=r"classifier\.bias"):
        lite.fill(model, weights)


def test_random_weights_pass_something_on(lite):
    """With transformers' own scale of initial weights, all pictures look the same to the last layer."""
    torch.manual_seed(0)
    model = lite.efficientnet_lite0(labels=2).train()
    with torch.no_grad():
        features = model.efficientnet(torch.randn(8, 3, 64, 64)).pooler_output
    assert features.std(0).mean() > 0.01


def test_the_example_hardens_the_published_weights(lite, tmp_path, monkeypatch):
    """On invented pictures: none is in two tasks or splits, and a step moves every weight but the gates."""
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(ROOT / "examples" / "08_images.py"))
    for split, each in (("train", 10), ("test", 20)):
        pictures(each, split == "test").to_parquet(tmp_path / f"{split}.parquet")
    lite.main("lite0-cifar10/base")
    script["write_pictures"](str(tmp_path), evaluated=8, attacked=18)
    found = {path: pd.read_parquet(path) for path in Path("lite0-cifar10").glob("*/*.parquet")}
    seen = [one["bytes"] for rows in found.values() for one in rows["image"]]
    assert (len(found), len(seen), len({*seen})) == (6, 300, 300)
    desired = {name for path, rows in found.items() if path.parent.name == "vehicles" for name in rows["class_name"]}
    assert desired == {*script["VEHICLES"]}

    sizes = {"per_device_train_batch_size": 4, "blocking_batch_size": 8, "adversary.batch_size": 8}
    short = {"max_steps": 1, "warmup_steps": 0, "logging_steps": 1, **sizes}
    config = load_config(
        script["CONFIG"], [part for name, value in short.items() for part in (f"--{name}", str(value))]
    )
    processor = processor_of(config.model, config.data)
    trainer = trained(config, examples(config, processor, config.model), processor)
    base = lite.EfficientNetForImageClassification.from_pretrained("lite0-cifar10/base")
    start = dict(base.named_parameters())
    moved = {n for n, w in trainer.model.named_parameters() if w.shape == start[n].shape and not w.equal(start[n])}
    assert moved == {n for n in start if "squeeze_excite" not in n} - {"classifier.weight", "classifier.bias"}
    assert any(one.get("meta_grad_norm", 0) > 0 for one in trainer.state.log_history)


def pictures(each, other):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    generator, rows = np.random.default_rng(int(other)), []
    for name in names * each:
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "class_name": name})
    return pd.DataFrame(rows)
