"""A file of settings, carried out: harden, attack, rerun, verify, fingerprint."""
