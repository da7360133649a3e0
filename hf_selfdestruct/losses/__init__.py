"""Losses: what blocks, and what keeps."""
