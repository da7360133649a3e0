"""Faults in two real processes: a clear message, the last checkpoint intact, and a rerun as if nothing had been."""

import shutil

import pytest
from faults import PROCESSES, SCRIPT, Outcome, message_of, table, tried
from faulty_training import END, FAULTS, NAN, PICTURES, SAVED, STEP, STEPS, UNDISTURBED, trainer_of
from launched import handed_in, launch
from train_together import state_of
from trainer_state import assert_bitwise

from hf_selfdestruct.trainer.intact import MEMBER_FILE, fault, last_complete

STRUCK = {
    "kill -9 of one process, in an inner loop": ("killed", STEP),
    "kill -9 while a checkpoint is written": ("killed", STEP - SAVED),
    "disk full while a checkpoint is written": ("Earlier checkpoints are intact: make room", STEP - SAVED),
    "SIGTERM to one process, in an inner loop": ("ended by SIGTERM", STEP + 1),
    NAN: ("FloatingPointError: blocking_loss is nan at step 4", STEP),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Digests of a run to which nothing happens, for each toy."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = {fault: tried(fault, folder / str(i), "local") for i, fault in enumerate((UNDISTURBED, PICTURES))}
    assert all(run.code == 0 and run.worlds == (PROCESSES,) * PROCESSES for run in runs.values())
    assert len({run.digests for run in runs.values()}) == 2
    return {fault: run.digests for fault, run in runs.items()}


@pytest.mark.parametrize("fault", STRUCK)
def test_a_rerun_goes_on_bitwise(tmp_path, undisturbed, fault):
    message, kept = STRUCK[fault]
    seen = tried(fault, tmp_path / "run", "local")
    assert seen.code != 0
    assert message in seen.message
    assert seen.kept == kept
    assert seen.again == 0, seen.trouble
    assert seen.worlds == (PROCESSES,) * PROCESSES
    assert seen.digests == undisturbed[PICTURES if fault == NAN else UNDISTURBED]


def test_a_pool_goes_on_bitwise_after_kill_9(tmp_path):
    """Killed between a stretch's steps, when one adversary is in its second life and two have moved in their first."""
    struck = launch(
        SCRIPT, str(tmp_path / "run"), "kill -9 of all processes, in an inner loop", "local", "3", processes=1
    )
    assert message_of(struck.stderr) == "killed"
    assert last_complete(tmp_path / "run").endswith(f"checkpoint-{STEP}")
    again = trainer_of(tmp_path / "run", UNDISTURBED, "local", pool=3)
    again.train(resume_from_checkpoint=True)
    whole = trainer_of(tmp_path / "whole", UNDISTURBED, "local", pool=3)
    whole.train()
    found = state_of(again)
    assert_bitwise(found, state_of(whole))
    ends = {name: found[f"learned./pool/{name}"] for name in ("0/life", "1/life", "2/age", "turn")}
    assert ends == {"0/life": 1, "1/life": 1, "2/age": 4, "turn": 6}
    assert any(name.startswith("learned./pool/2/moment.") for name in found)


@pytest.mark.parametrize(("scope", "pools"), [("local", PROCESSES), ("global", 1)])
def test_pools_of_several_processes_go_on_bitwise(tmp_path, scope, pools):
    """Weights, and every adversary of each process's pool: offset, head, moments, age, life."""
    ends = []
    for _ in range(2):  # the second goes on from the checkpoint that is left
        done = launch(SCRIPT, str(tmp_path), UNDISTURBED, scope, "3", processes=PROCESSES)
        assert done.returncode == 0, done.stderr[-3000:]
        state, found = handed_in(tmp_path, END, PROCESSES)
        ends.append([end["digest"] for end in found])
        shutil.rmtree(tmp_path / f"checkpoint-{STEPS}")
    assert ends[0] == ends[1]
    assert len({*ends[0]}) == pools
    assert any(name.startswith("learned./pool/2/moment.") for name in state)
    left = tmp_path / f"checkpoint-{STEP}"
    files = [MEMBER_FILE.format(number + 1, 3 * pools) for number in range(3 * pools)]
    assert {*files} == {path.name for path in left.glob("selfdestruct_pool-*")}
    if scope == "local":
        told = (
            r"cannot resume from .*adversaries \[\] .* this process has \[0, 1, 2\]; resume with .* as many processes"
        )
        with pytest.raises(ValueError, match=told):
            trainer_of(tmp_path, UNDISTURBED, scope, pool=3).train(resume_from_checkpoint=str(left))
    (left / files[-1]).unlink()
    assert fault(left) == f"{files[-1]} is missing"


def test_the_table_says_what_was_seen():
    fine = [Outcome(fault, 0, "", 6, 0, ("a", "a"), (2, 2)) for fault in (UNDISTURBED, PICTURES)]
    killed = Outcome([*FAULTS][2], 1, "killed", 4, 0, ("a", "a"), (2, 2))
    wrong = Outcome(NAN, 1, "nan", 4, 0, ("b", "a"), (2, 2))
    rows = table([*fine, killed, wrong], "local").splitlines()
    assert rows[-2] == f"| {killed.fault} | 1 | killed | 4 | the weights of an undisturbed run, bitwise |"
    assert rows[-1] == f"| {NAN} | 1 | nan | 4 | differs |"


def test_the_message_is_that_of_the_process_that_failed():
    lost = "[rank0]: RuntimeError: Connection closed by peer\n"
    assert message_of(lost + "[rank1]: OSError: no room\n") == "OSError: no room"
    failure = "Root Cause (first observed failure):\n  exitcode  : -9 (pid: 1)  (SIGKILL)\n"
    assert message_of(lost + failure) == "killed"
