"""Train open weights that stay good at their desired task and cost more to turn to a blocked one."""

__version__ = "0.1.0"
