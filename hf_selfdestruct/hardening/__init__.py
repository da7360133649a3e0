"""What hardening does at each outer step, without a Trainer."""
