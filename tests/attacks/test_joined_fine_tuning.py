"""Fine-tuning under a head that reads every layer."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BertForSequenceClassification

from hf_selfdestruct.attacks import HeadOnly, ProbedFirst, Target, Trial
from hf_selfdestruct.attacks.methods.batches import averaged, batch_of, hidden_states
from hf_selfdestruct.attacks.methods.joined_fine_tuning import JoinedClassifier, JoinedProbedFirst
from hf_selfdestruct.attacks.methods.probed_first import probed
from hf_selfdestruct.attacks.methods.tamper import ShrinkAndPerturb

SHORT = {"learning_rates": (1e-3,), "steps": (1,), "looks": 1}


def features(model, data, rows):
    """Every hidden state's average of each row by itself, side by side."""
    found = []
    for row in range(len(rows.labels)):
        batch = batch_of(data, rows.take([row]), labels=False)
        found.append(torch.cat([averaged(state, batch)[0] for state in hidden_states(model, batch)]).numpy())
    return np.stack(found).astype(np.float64)


def test_the_head_starts_as_the_probe_of_all_layers(target, readable):
    model = target.load(2, 0).eval()
    attack = JoinedProbedFirst(**SHORT)
    trial = Trial(target, readable, 60, 0, attack.space()[0])
    few = trial.rows()
    with torch.no_grad():
        head, strength = probed(model, few, trial, ("mean",), JoinedClassifier)
        answers = head.eval()(**batch_of(readable, readable.test, labels=False)).logits.softmax(1).numpy()
        seen, test = features(model, readable, few), features(model, readable, readable.test)
    twin = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(seen, few.labels)
    assert head.head_weight.shape == (2, 2 * 32)
    np.testing.assert_allclose(answers, twin.predict_proba(test), atol=2e-3)


def test_a_last_layer_that_forgets_hides_nothing_from_it(save_model, tmp_path, readable):
    """A planted defence: the last layer answers everything with one vector."""
    folder = save_model(tmp_path, layers=2)
    model = BertForSequenceClassification.from_pretrained(folder)
    torch.nn.init.zeros_(model.bert.encoder.layer[-1].output.LayerNorm.weight)
    model.save_pretrained(folder)
    spoiled = Target("hardened", folder)

    def reached(attack):
        return attack.run(Trial(spoiled, readable, 140, 0, attack.space()[0])).test.accuracy

    assert reached(ProbedFirst(**SHORT)) < 0.65
    assert reached(JoinedProbedFirst(**SHORT)) > 0.8


@pytest.mark.parametrize("attack", [HeadOnly(joined=True), JoinedProbedFirst(**SHORT)], ids=lambda one: one.name)
def test_features_too_small_for_single_precision_divide_by_nothing(save_model, tmp_path, readable, attack):
    """As in random weights, whose statistics of batch normalisation nobody has estimated: layer after layer shrinks."""
    folder = save_model(tmp_path, layers=2)
    model = BertForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.bert.encoder.layer[0].output.LayerNorm.weight, 1e-42)
    model.save_pretrained(folder)
    vanishing = Target("scratch", folder)
    reached = attack.run(Trial(vanishing, readable, 140, 0, attack.space()[0])).test
    assert np.isfinite(reached.loss)
    assert reached.accuracy > 0.8, "layer 0 is as it was"


def test_every_weight_of_the_trunk_and_the_head_has_a_gradient(target, readable):
    attack = JoinedProbedFirst(**SHORT)
    trial = Trial(target, readable, 60, 0, attack.space()[0])
    head, _ = probed(target.load(2, 0), trial.rows(), trial, ("mean",), JoinedClassifier)
    head(**batch_of(readable, trial.rows())).loss.backward()
    moved = {name for name, weight in head.named_parameters() if weight.grad is not None and weight.grad.any()}
    # A key's bias adds the same to every token's weight; the pooler and the old head are not read.
    still = {name for name, _ in head.named_parameters()} - moved
    assert all("key.bias" in name or "pooler" in name or name.startswith("model.classifier") for name in still)
    assert {"head_weight", "head_bias"} <= moved


def test_weights_are_shaken_first_where_the_record_says_so(target, readable):
    plain, shaken = (JoinedProbedFirst(tamper=tamper, **SHORT) for tamper in (None, ShrinkAndPerturb()))
    assert "tamper" in shaken.space()[0]
    runs = [one.run(Trial(target, readable, 60, 0, one.space()[0])) for one in (plain, shaken)]
    assert not np.allclose(runs[0].probabilities, runs[1].probabilities, atol=1e-3)


def test_other_poolings_and_parts_of_the_weights_are_refused():
    with pytest.raises(ValueError, match=r"joined probe.*trains all weights.*'last_1'"):
        JoinedProbedFirst(trainable="last_1")
    with pytest.raises(ValueError, match=r"joined probe.*averaged.*'max'"):
        JoinedProbedFirst(poolings=("max",))
