"""The demonstration: embedded data and its job."""
