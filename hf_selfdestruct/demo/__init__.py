"""The demonstration: its data, and what is measured on it."""
