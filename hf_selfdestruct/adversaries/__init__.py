"""Adversaries that a training simulates: what they train, how, and what they learn."""
