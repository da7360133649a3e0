"""An episode in the shards of the live weights is the episode in whole ones, and leaves the shards as they were."""

from __future__ import annotations

from launched import TESTS, apart, handed_in, launch
from sharded_episodes import CASES, Sharding

REFUSED = {
    "half": "bert.embeddings.word_embeddings.weight is in torch.bfloat16, and inner steps run in float32",
    "frozen": "the adversary trains bert.embeddings.word_embeddings.weight, which is frozen in the model",
    "a policy": "FSDP computes in torch.bfloat16, and inner steps run in torch.float64: leave out mp_policy",
    "one layer's policy": "FSDP computes in torch.bfloat16",
    "a probe": "head='probe' reads whole weights, and this model's are sharded: set adversary={'head': 'random'}",
    "each its own": "over 2 processes, and 1 simulate an adversary together: set adversary={'scope': 'global'}",
    "the trunk alone": "and the model itself is not: call fully_shard on it, too",
    "no gradients": "FSDP left no gradient of an inner step: call model.set_requires_gradient_sync(True)",
    "hidden states": "does not return the hidden states of a trunk that fully_shard was called on",
    "weights": "a blocking loss reads View.weights, and these are sharded",
    "a pool elsewhere": "pool_storage='cpu' needs whole weights, and this model's are sharded: set adversary=",
}


def test_the_meta_gradient_is_that_of_one_process_and_the_live_model_is_as_before(tmp_path):
    done = launch(TESTS / "sharded_episodes.py", str(tmp_path), processes=2)
    assert done.returncode == 0, done.stderr[-20_000:]
    for case in CASES:
        expected = Sharding(case).meta_gradient()
        found, ranks = handed_in(tmp_path, case, 2)
        assert ranks[0]["digest"] == ranks[1]["digest"], case
        assert {*found} == {*expected}, case
        # Llama's norms and rotations are computed in float32.
        assert apart(found, expected) < (1e-12 if case in ("a bare trunk", "a prelude") else 1e-6), case
        assert min(g.norm() for name, g in expected.items() if not name.startswith("classifier")) > 0, case
    assert ranks[0]["refused"].keys() == ranks[1]["refused"].keys() == REFUSED.keys()
    for name, said in REFUSED.items():
        assert said in ranks[0]["refused"][name], name
