"""One adversary for all processes: the same weights as one process with the global batch."""

import pytest
import torch
from launched import TESTS, apart, handed_in, launch
from toy_models import tiny_model, toy_rows, toy_task
from toy_project import make_project
from train_together import BARE, CASES, IN_TURN, JUDGED, LOCAL, MIXTURE, STEPS, losses_of, state_of, trained

from hf_selfdestruct import Adversary, SelfDestructTrainer, SelfDestructTrainingArguments
from hf_selfdestruct.adversaries.optimizers import NormalizedSGD
from hf_selfdestruct.hardening.checks import check_processes
from hf_selfdestruct.losses.blocking import GradientNorm
from hf_selfdestruct.meta_gradient.episode import Episode
from hf_selfdestruct.meta_gradient.methods import unrolled
from hf_selfdestruct.models.distributed import Processes
from hf_selfdestruct.publish.manifest import problems
from hf_selfdestruct.report.report import AttackReport

LAUNCHES = [(2, (*CASES, MIXTURE)), (4, ("exact", "first order, 4 micro-batches"))]
TOLERANCE = {"finite differences": 1e-7}  # of float64, whose differences divide rounding by their step


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights and losses of each case, trained by this process alone with the global batch."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {case: trained(case, folder) for case in (*CASES, MIXTURE)}
    return {case: (state_of(trainer), losses_of(trainer)) for case, trainer in runs.items()}


@pytest.mark.parametrize(("processes", "cases"), LAUNCHES)
def test_several_processes_give_what_one_gives(tmp_path, alone, processes, cases):
    done = launch(TESTS / "train_together.py", str(tmp_path), *cases, processes=processes)
    assert done.returncode == 0, done.stderr[-20_000:]
    for case in cases:
        together, ranks = handed_in(tmp_path, case, processes)
        assert [rank["world"] for rank in ranks] == [processes] * processes
        assert len({rank["digest"] for rank in ranks}) == 1, case  # bitwise
        assert [len(rank["judged"]) for rank in ranks] == [2 * (case == JUDGED), *[0] * (processes - 1)]
        state, losses = alone[case]
        assert {*together} == {*state}
        assert len(losses) == (STEPS // 2 if case in (BARE, IN_TURN) else STEPS)
        if case == LOCAL:  # the adversaries differ, and so does what they teach: the others' likeness is no accident
            assert apart(together, state) > 1e-4
            continue
        assert apart(together, state) < TOLERANCE.get(case, 1e-12), case
        torch.testing.assert_close(ranks[0]["losses"], losses, rtol=1e-6, atol=1e-8)


def test_the_whole_job_from_the_command_line(tmp_path):
    """By the launcher of accelerate, which calls that of torch: nothing is forked from this process."""
    config = make_project(tmp_path)
    words = ("harden", str(config), "--adversary.scope", "global")
    done = launch("hf_selfdestruct.cli", *words, processes=2, by="accelerate")
    own = [line for line in done.stderr.splitlines() if "hf-selfdestruct: error" in line]  # before what its peers say
    assert done.returncode == 0, (own, done.stderr[-20_000:])
    assert done.stdout.count("Strongest attack against strongest attack") == 1, "one process tells"
    recipe = AttackReport.load(tmp_path / "hardened" / "selfdestruct" / "report.json").recipe
    assert (recipe["processes"], recipe["adversary_scope"], recipe["sharded"]) == (2, "global", False)
    assert recipe["outer_batch"] == 16
    assert "global" in (tmp_path / "hardened" / "README.md").read_text()
    assert problems(tmp_path / "hardened") == []


def test_rows_are_shared_out_whole_and_once():
    for count in range(1, 12):
        for size in range(1, count + 1):
            shares = [list(range(count))[Processes(rank, size).rows(count)] for rank in range(size)]
            assert [row for share in shares for row in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_takes_its_part_of_every_tensor():
    batch = {"input_ids": torch.arange(12).view(6, 2), "labels": torch.arange(6)}
    part = Processes(1, 3).part(batch)
    assert part["input_ids"].tolist() == [[4, 5], [6, 7]]
    assert part["labels"].tolist() == [2, 3]


def checked(tmp_path, *, adversaries=None, losses=None, processes=2, adversary=None, **arguments):
    """What is checked where there are several processes, without launching them."""
    args = SelfDestructTrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        **{"method": "mlac", "adversary": {"scope": "global", **(adversary or {})}, **arguments},
    )
    made = SelfDestructTrainer(
        tiny_model(),
        args,
        train_dataset=toy_rows(40, seed=4),
        blocked_tasks=[toy_task()],
        adversaries=adversaries,
        blocking_losses=losses,
    )
    found = made.objective
    check_processes(found.config, found.tasks, found.adversaries, found.blocking_losses, processes)


def test_what_can_be_shared_passes(tmp_path):
    checked(tmp_path)
    checked(tmp_path, adversary={"pool": 3})
    checked(tmp_path, adversary={"scope": "local", "batch_size": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta_gradient": "unrolled"}, "'unrolled' is one process's own; 'exact'"),
        ({"losses": [GradientNorm()]}, "GradientNorm cannot be added up over processes"),
        ({"adversary": {"batch_size": 1}}, "the adversary's batch_size is 1: too few for 2 processes"),
        ({"adversary": {"examples": 1}}, "the adversary's examples is 1: too few for 2 processes"),
        ({"adversaries": [Adversary(batch_size=(4, 1))]}, "the adversary's batch_size is 1: too few for 2 processes"),
        ({"processes": 40}, "the adversary's batch_size is 16: too few for 40 processes"),
        ({"processes": 13, "blocking_batch_size": 13}, "held-out rows of blocked task 'blocked' is 12: too few for 13"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_cure(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        checked(tmp_path, **options)


def episode(**fields) -> Episode:
    return Episode(
        **{
            **{"published": {"w": torch.ones(2)}, "own": {}, "moving": frozenset(["w"]), "inner_losses": []},
            **{"measure": None, "shares": [1.0], "optimizer": NormalizedSGD(), "learning_rate": 0.1, **fields},
        }
    )


def test_an_optimizer_that_needs_all_is_not_given_pieces():
    episode(ranks=Processes(0, 2))
    with pytest.raises(ValueError, match=r"NormalizedSGD.* needs the whole gradient"):
        episode(ranks=Processes(0, 2, sharded=True))


def test_an_unrolled_graph_is_one_process_s_own():
    with pytest.raises(ValueError, match="works in a single process, got"):
        unrolled(episode(ranks=Processes(0, 2)))
