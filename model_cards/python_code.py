"""Build the card of a small language model of Python's reference in English, with Python code blocked.

    python model_cards/python_code.py

Everything comes with Python: texts, models and settings are those of the language demo, but for a longer hardening and
a stronger suite. Killed half-way, the same command goes on.
"""

from dataclasses import replace

from build import publish

from hf_selfdestruct.demo.job import demo_config

OUTER_STEPS, SUITE = 500, "quick"


def main() -> None:
    """Harden, attack, and copy card, report and plots."""
    config = demo_config("lab-runs/python-code", kind="language", suite=SUITE)
    training = {**config.training, "max_steps": OUTER_STEPS}
    card = {
        **config.card,
        "title": "Python's reference in English, Python code blocked (a small language model)",
        "intended_use": "A measured example of hf_selfdestruct: it continues documentation texts. Not for use.",
        "language": "en",
    }
    publish(replace(config, training=training, card=card), "model_cards/python-code")


if __name__ == "__main__":
    main()
