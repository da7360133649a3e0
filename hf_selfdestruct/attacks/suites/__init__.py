"""Suites of attacks: what is tried, in which order, by whom, and what is recorded."""
