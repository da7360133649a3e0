"""On a CUDA device: the same meta-gradient as on the CPU, with any attention kernel, and training in bf16."""

import pytest
import torch
from toy_models import tiny_model, toy_rows, toy_task

from hf_selfdestruct import SelfDestructTrainer, SelfDestructTrainingArguments

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WAYS = [
    {"meta_gradient": "first_order"},
    {"meta_gradient": "exact", "method_options": {"hvp": "double_backward"}},
    {"meta_gradient": "exact", "method_options": {"hvp": "finite_difference"}},
    {"meta_gradient": "exact", "method_options": {"hvp": "finite_difference", "trajectory": "cpu"}},
    {"meta_gradient": "exact", "method_options": {"hvp": "finite_difference", "trajectory": "recompute"}},
    {"meta_gradient": "exact", "method_options": {"hvp": "finite_difference", "trajectory": "logarithmic"}},
]


def trainer_on(folder, *, cpu: bool, **arguments) -> SelfDestructTrainer:
    args = SelfDestructTrainingArguments(
        str(folder),
        **{
            "method": "mlac",
            "use_cpu": cpu,
            "inner_steps": 3,
            "max_steps": 3,
            "save_steps": 1,
            "report_to": "none",
            **arguments,
        },
    )
    return SelfDestructTrainer(tiny_model(), args, train_dataset=toy_rows(96, seed=4), blocked_tasks=[toy_task()])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way.values())))
def test_the_meta_gradient_is_that_of_the_cpu(tmp_path, way) -> None:
    found = []
    for cpu in (True, False):
        trainer = trainer_on(tmp_path, cpu=cpu, adversary={"head": "random", "learns_rate": False}, **way)
        model = trainer.model.to(trainer.args.device)
        gradient = trainer.objective.simulator.meta_gradient(model, trainer.objective.simulator.draw(0)).weights
        assert {value.device.type for value in gradient.values()} == {"cpu" if cpu else "cuda"}
        found.append(torch.cat([gradient[name].double().cpu().flatten() for name in sorted(gradient)]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.9999


@pytest.mark.parametrize("bf16", [False, True])
def test_training_moves_every_weight_and_resumes(tmp_path, bf16) -> None:
    trainer = trainer_on(tmp_path, cpu=False, bf16=bf16, learning_rate=1e-2)
    before = {n: p.detach().cpu().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    after = {n: p.detach().cpu() for n, p in trainer.model.named_parameters()}
    still = {n for n in before if torch.equal(before[n], after[n])}
    assert {n for n in still if not n.endswith("key.bias")} == set()
    again = trainer_on(tmp_path, cpu=False, bf16=bf16, learning_rate=1e-2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in again.model.named_parameters():
        torch.testing.assert_close(value.detach().cpu(), after[name], rtol=1e-4, atol=1e-5)
