"""The gradient of the blocking loss through an adversary's inner steps."""
