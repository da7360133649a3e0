"""``SelfDestructTrainer``: the mixin on ``transformers.Trainer``."""

from __future__ import annotations

from transformers import Trainer

from .mixin import SelfDestructMixin


class SelfDestructTrainer(SelfDestructMixin, Trainer):
    """Trains a model to stay good at its desired task and to resist fine-tuning to blocked tasks.

    A drop-in ``Trainer``. Each training step adds to the desired loss a blocking loss, measured along a
    simulated fine-tuning (the adversary) of K inner steps; evaluation, callbacks, resuming, mixed
    precision, gradient accumulation and launching work as in ``Trainer``. Each micro-batch is averaged
    on its own (the ``num_items_in_batch`` of a ``compute_loss_func`` is the micro-batch's own), so that the two losses
    keep their proportion whatever the number of accumulation steps and processes.

    Overridden: ``training_step`` (adds the blocking loss to what ``compute_loss`` returns, a subclass's own included),
    ``compute_loss`` (for models without a loss), ``train`` and ``_save_checkpoint`` (the adversary's state),
    ``_load_from_checkpoint`` and ``_load_best_model`` (files that name weights otherwise), ``log`` (its readings),
    ``save_model``, ``create_model_card`` and ``push_to_hub``; with ``peft_config``, ``create_optimizer``.

    Args:
        model: A model with its desired task's head; or ``model_init=``, called once.
        args: Training arguments; what is left at ``None`` is filled by ``args.method``.
        *positional: As for ``Trainer``.
        blocked_tasks: The tasks to block; one is drawn by weight in each outer step.
        adversaries: Adversaries to draw from; by default the one that ``args`` describes.
        blocking_losses: Losses to add up; by default the one ``args`` names.
        keeping_losses: Distances to the original model to add up, on the desired batch and on ``keep_dataset``;
            by default the one ``args`` names, or none. A bare trunk (``AutoModel``) has no other loss.
        keep_dataset: Unlabelled rows on which the model's general use is kept.
        peft_config: Train a LoRA adapter alone. It is merged into the model in each step, so that adversaries start
            from the weights that are published, and the folder is a stock model as ever; see :meth:`save_adapter`.
        **named: As for ``Trainer``.

    Raises:
        TypeError: ``args`` is not a ``SelfDestructTrainingArguments``, or ``model`` no ``PreTrainedModel``.
        ValueError: A dataset, model, launch or adversary that hardening cannot work with; the message
            says what to do.

    Example:
        ```python
        trainer = SelfDestructTrainer(
            model=model, args=SelfDestructTrainingArguments("hardened"),
            train_dataset=professions["train"], eval_dataset=professions["validation"],
            blocked_tasks=[gender], processing_class=tokenizer,
        )
        trainer.train()
        report = trainer.attack("smoke")
        ```
    """
