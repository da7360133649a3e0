"""Gradients of the blocking loss through the inner steps of an adversary."""
