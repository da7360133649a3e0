"""The example of diffusion runs from a base to samples of attacked models, and what it saves is diffusers' own."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the lowest supported versions of the libraries are too old for diffusers")

from diffusers import DDPMPipeline

EXAMPLE = Path(__file__).parents[2] / "examples" / "10_diffusion.py"
ROLES = ["base", "undefended", "hardened", "hardened, negated", "scratch"]


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_it_runs_with_few_steps(example, tmp_path):
    headings, *rows = example["main"](2, samples=2, folder=str(tmp_path))
    assert [row[0] for row in rows] == ROLES
    assert {len(row) for row in rows} == {len(headings)}
    desired, blocked, drawn, rate = (np.array([row[i] for row in rows], dtype=float) for i in (1, 2, 3, 4))
    assert np.isfinite([desired, blocked]).all()
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert {*rate} <= {*example["RATES"]}
    assert len({*desired.round(6)}) == 4, "the hardened model stands in two rows"
    assert desired[2] == desired[3]
    table = (tmp_path / "table.txt").read_text(encoding="utf-8").splitlines()
    assert table == [example["line"](row) for row in (headings, *rows)]
    assert plt.imread(tmp_path / "samples.png").std() > 0
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    assert 3e5 < sum(weight.numel() for weight in pipeline.unet.parameters()) < 1e6


def test_its_reader_tells_blocked_digits_from_their_negatives_and_from_disorder(example):
    wanted, unwanted = example["pictures"]()
    read = example["reader"](wanted["test"], unwanted["test"])
    flat = {name: part["attack"].reshape(-1, 64) for name, part in (("wanted", wanted), ("unwanted", unwanted))}
    shares = {name: (read.predict(rows) == 1).mean() for name, rows in flat.items()}
    assert shares["unwanted"] > 0.9
    assert max(shares["wanted"], (read.predict(-flat["wanted"]) == 1).mean()) < 0.05
    assert (read.predict(-flat["unwanted"]) == 1).mean() < 0.05
    noise = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert (read.predict(noise.numpy()) == 1).mean() < 0.05
