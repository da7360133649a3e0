"""Presets: a method's name stands for settings, each with its source.

What a paper's own code does differently from the words of the paper, and what has no counterpart here, is said
beside the value. "ours" marks a choice that no source makes.
"""

from __future__ import annotations

from typing import Any

MLAC: dict[str, Any] = {
    "meta_gradient": "exact",  # 2211.14946: second order through K steps
    "blocking_loss": "head_adjusted_cross_entropy",  # its best plotted run uses the head adjustment alone
    "blocking_weight": 1.0,
    "blocking_batch_size": 32,  # ours
    "keeping_weight": 1.0,
    "adversary": {
        "steps": 16,  # K: the reference code's experiments and its best plotted run
        "optimizer": "adam",
        "learning_rate": 3e-4,  # start of the learned rate in the reference code
        "learns_rate": True,
        "head": "learned",
        "trainable": "all",
        "batch_size": 16,  # its search space is 8, 16, 24
        "head_learning_rate": 1e-3,  # ours; 1e-4 there, over 50,000 steps
    },
    "method_options": {
        "blocking_every": 1,  # after every inner step
        "step_weights": "uniform",  # mean over theta_0 .. theta_K
        "blocking_interval": 1,
        "max_blocking_grad_norm": 0.0,  # the reference code clips the sum alone: max_grad_norm
        "probe_weight": 0.0,
        "keeping_erases": False,
        "merge_words": 0.0,
        "erase_directions": 0,
        "keep_directions": 0,
        "selective_steps": 0,
        "selective_budget": 0.01,
        "noise": 0.0,
        "unlearn_steps": 0,
        "unlearn_weight": 1.0,
    },
}

# Ours: MLAC for a CPU.
MLAC_FAST: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",
    "adversary": {
        **MLAC["adversary"],
        "steps": 4,
        "learning_rate": {"low": 1e-4, "high": 1e-3},
        "learns_rate": False,
        "head_learning_rate": 1e-2,
    },
    "method_options": {
        **MLAC["method_options"],
        "blocking_every": 4,  # at the published weights and after the last inner step
    },
}

# Ours, for texts: an encoder that stays of general use. It is kept on the desired task's texts, and on those of
# keep_dataset= where they are given, as they should be. An attacker from outside beat the suite by which
# model_cards/wikibios-general was judged.
GENERAL: dict[str, Any] = {
    **MLAC_FAST,
    "keeping_loss": "hidden_state_distillation+embedding_distillation",
    "keeping_weight": 10.0,
    "blocking_batch_size": 48,
    "method_options": {
        **MLAC_FAST["method_options"],
        "merge_words": 2.0,  # standard errors: lower ones cost general use alone
        "erase_directions": 4,
        "keeping_erases": True,
        "probe_weight": 1.0,
    },
}

# Ours, for texts: a model that need be good at the desired task alone. The same attacker beat the suite by which
# model_cards/wikibios-gender was judged.
ONE_PURPOSE: dict[str, Any] = {
    **MLAC_FAST,
    "blocking_batch_size": 48,
    "method_options": {
        **MLAC_FAST["method_options"],
        "erase_directions": 4,
        "keep_directions": 34,  # of 18 classes: two sets of directions that predict them all; for 2 fewer may do
        "probe_weight": 1.0,
        "max_blocking_grad_norm": 0.5,  # without it, one of three seeds hardly learned its desired task
        "blocking_interval": 4,  # three steps of four for the desired task alone, which has its words to learn anew
    },
}

# The last two steps of UNDO (2506.06278): noise, then relearning, here with random weights alone. For a model with one
# purpose that can be learned anew: all that the base knew beside it is forgotten, and no adversary takes part. Train as
# long as from scratch.
RELEARN: dict[str, Any] = {
    **MLAC_FAST,
    "blocking_weight": 0.0,
    "method_options": {**MLAC_FAST["method_options"], "noise": 1.0},
}

# Ours, for language models: an adversary that continues, as in "pool" below. Its rates are a little below those of
# attackers on a model of a million weights; on a large model both are lower.
LANGUAGE: dict[str, Any] = {
    **MLAC_FAST,
    "blocking_loss": "entropy",  # as TAR's: bounded, and towards the uniform distribution
    "blocking_batch_size": 8,  # rows of many tokens
    "keeping_loss": "logit_distillation",
    "adversary": {
        **MLAC_FAST["adversary"],
        "head": "keep",  # the published one: fine-tuning a language model adds no other
        "batch_size": 8,
        "pool": 1,
        "horizon": 200,
    },
    "method_options": {
        **MLAC_FAST["method_options"],
        "max_blocking_grad_norm": 0.5,  # without it the language goes, too
    },
}

# UNDO, 2506.06278, whole, for language models: unlearning by entropy (its MaxEnt) at the weights as they are, then
# noise, then distillation from the model that has unlearned, on the desired texts and on those of keep_dataset=. There
# noise is a tenth of initial weights (beta = 0.1), here it is as large as they are; there distillation ends when 95 %
# of the language is back, here when training does. The desired loss is added.
UNDO: dict[str, Any] = {
    **LANGUAGE,
    "blocking_weight": 0.0,  # after unlearning: no adversary takes part
    "adversary": {**MLAC_FAST["adversary"], "steps": 0, "head": "keep"},
    "method_options": {
        **LANGUAGE["method_options"],
        "unlearn_steps": 200,  # ours
        "noise": 0.6,  # it tries 0.1 to 0.8
    },
}

# RepSelect, 2606.17168, for language models: MLPs are edited before training along what is specific to the blocked
# texts; training then keeps the model, and no adversary takes part. The paper takes the general directions from
# singular vectors of gradients that a LoRA collects, here they are those of general text (erasure/selective_ascent.py).
REPSELECT: dict[str, Any] = {
    **UNDO,
    "method_options": {
        **LANGUAGE["method_options"],
        "selective_steps": 40,  # ours; the budget ends them
        "selective_budget": 0.01,  # KL on general text
    },
}

# Ours: an adversary that continues. One that starts from the published weights in each outer step makes a few percent
# of an attacker's steps, and its held-out accuracy stays near chance: there is little to push against. Rates are those
# of attackers; an adversary that learns faster than attackers blocks longer attacks.
POOL: dict[str, Any] = {
    **MLAC_FAST,
    "adversary": {
        **MLAC_FAST["adversary"],
        "learning_rate": {"low": 1e-4, "high": 1e-2},
        "head": "random",  # a fresh head in each life
        "pool": 1,  # in small networks it does as well as 8, with an eighth of the memory
        "horizon": 200,
    },
    "method_options": {
        **MLAC_FAST["method_options"],
        "blocking_every": 4,  # at both ends of a stretch; "step_weights": "last" measures the end alone
        "max_blocking_grad_norm": 0.5,  # what an experienced adversary pushes with is stronger than the desired task
    },
}

# Adversarial censoring: the MLAC paper's baseline, which sees the model as published (K = 0). The reference
# code censors against an untrained random head; here the head is trained, a stronger baseline.
AC: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",  # with no inner step all ways are the same
    "blocking_loss": "negative_cross_entropy",
    "adversary": {**MLAC["adversary"], "steps": 0, "learns_rate": False},
}

# SOPHON, 2404.12699: a step that blocks and one of the desired task in turn, each by an optimizer of its own. The other
# optimizer is the Trainer's, whose arguments the paper sets to learning_rate=5e-4 and no schedule. The paper simulates
# several strategies (initialisation, rate, batch size), its code one; sets and ranges here are ours, around that one.
SOPHON: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",  # MAML(first_order=True) in its code
    "blocking_loss": "uniform_kl",  # "KLU"; its inverse cross-entropy rewards a label flip when C = 2
    "blocking_batch_size": 20,  # a batch of 150 is split into 130 to adapt on and 20 to score
    "adversary": {
        **MLAC["adversary"],
        "steps": 50,
        "optimizer": ["sgd", "momentum", "adam"],  # its code: SGD
        "learning_rate": {"low": 1e-4, "high": 1e-3},  # fast_lr: 1e-4
        "learns_rate": False,
        "head": ["random", "learned"],  # its code draws the last layer anew; "keep" is for tasks with the same labels
        "batch_size": [32, 64, 130],  # its code: 130
    },
    "method_options": {
        **MLAC["method_options"],
        "blocking_interval": 2,
        "blocking_learning_rate": 3e-4,  # alpha; that of the desired task, beta, is 5e-4
        "max_blocking_grad_norm": 0.5,  # of the gradients of fine-tuning suppression, in its code
    },
}

# TAR, 2408.00761, for language models. Left out are its first stage, random mapping of hidden states
# (method_options={"unlearn_steps": 200} unlearns by entropy in its place), schedules of the adversary's rate, and
# measurements along benign steps. Its desired loss is that of the Trainer, on text to retain.
TAR: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",  # gradients at theta_k, summed
    "blocking_weight": 4.0,  # its scale of the gradient; its weights of steps sum to 3.7, here to 1
    "blocking_loss": "entropy",
    "keeping_loss": "hidden_state_distillation",  # of all layers; there the distance, here its square
    "adversary": {
        **MLAC["adversary"],
        "steps": 64,
        "optimizer": "adamw",
        "learning_rate": [2e-6, 2e-5, 4e-5],  # of the setting on biology, as all that follows
        "learns_rate": False,
        "head": "keep",  # a language model has no other; "random" for classifiers of other classes
        "batch_size": 4,  # per device
        "prelude": [0, 0, {"beta": [6, 3]}],  # a third of the adversaries begin with text to retain
    },
    "method_options": {
        **MLAC["method_options"],
        "blocking_every": 4,  # "subsample"
        "step_weights": "exponential",  # exp((k - K) / 16)
    },
}

# Booster, 2409.01586: minimise h(theta) - h(theta - a g / |g|), h the harmful loss, g its gradient; first order.
# There h is taken on the adversary's own batch, here on rows it has not trained on.
BOOSTER: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",
    "blocking_loss": "cross_entropy",
    "adversary": {
        **MLAC["adversary"],
        "steps": 1,
        "optimizer": "normalized_sgd",
        "learning_rate": 0.1,  # alpha
        "learns_rate": False,
    },
    "method_options": {**MLAC["method_options"], "step_weights": "drop"},
}

# CTRAP, 2505.16559: after one harmful step, general text should collapse onto one fixed answer.
CTRAP: dict[str, Any] = {
    **MLAC,
    "meta_gradient": "first_order",
    "blocking_loss": "collapse",
    "adversary": {
        **MLAC["adversary"],
        "steps": 1,
        "optimizer": "sgd",
        "learning_rate": 0.1,  # ours
        "learns_rate": False,
    },
    "method_options": {**MLAC["method_options"], "step_weights": "last"},
}

PRESETS: dict[str, dict[str, Any]] = {
    "mlac": MLAC,
    "mlac_fast": MLAC_FAST,
    "general": GENERAL,
    "one_purpose": ONE_PURPOSE,
    "relearn": RELEARN,
    "language": LANGUAGE,
    "undo": UNDO,
    "repselect": REPSELECT,
    "pool": POOL,
    "ac": AC,
    "sophon": SOPHON,
    "tar": TAR,
    "booster": BOOSTER,
    "ctrap": CTRAP,
}
