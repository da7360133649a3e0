"""Attacks, one kind a file."""
