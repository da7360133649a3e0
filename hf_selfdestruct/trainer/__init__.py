"""``SelfDestructTrainer``: hardening inside a ``transformers.Trainer``, and the evidence that it writes."""
