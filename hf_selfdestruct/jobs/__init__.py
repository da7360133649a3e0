"""Jobs defined by a configuration file: harden, attack, rerun, verify, fingerprint."""
