r"""What the base's weights add to what the raw input and scratch give: where they add little, blocking protects little.

    python model_cards/worth.py OUT.json examples/wikibios_general.yaml examples/wikibios_roles_swapped.yaml \
        --data.path DIR --model MODEL

The suite ``quick`` on the base and on random weights. Interrupted, the same command resumes from ``OUT.json.db``.
"""

import json
import sys
from pathlib import Path

from transformers import DataCollatorWithPadding
from words import configured

from hf_selfdestruct.attacks import Target, named_suite
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.weights_add import WITHOUT, best_combination, weights_add


def main(out: str, *words: str) -> None:
    """Attack, and save what was found by task and number of examples."""
    found = {}
    for config, tokenizer, tasks in configured(words):
        report = named_suite("quick").run(
            [Target("base", config.model), Target("scratch", config.model, random=True)],
            tasks,
            columns=tokenizer.model_input_names,
            collate=DataCollatorWithPadding(tokenizer),
            storage=f"sqlite:///{Path(out).resolve()}.db",
        )
        for task in report.blocked():
            found[task] = {str(n): summary(report, task, n) for n in report.budgets(task)}
    Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def summary(report: AttackReport, task: str, examples: int) -> dict[str, object]:
    """Means over attack seeds by attack, the attacks that the selection split prefers, and what the base adds."""
    added = weights_add(report, task, examples, "base")
    reached = {
        f"{s.attack} on {s.role}": [round(s.mean, 4), round(s.deviation, 4)]
        for s in report.summaries(task)
        if s.examples == examples
    }
    return {
        "reached": reached,
        "best without weights": str(best_combination(report, task, examples, *WITHOUT)),
        "best with base": str(best_combination(report, task, examples, "base", *WITHOUT)),
        "base adds": added and [round(value, 4) for value in (added.mean, added.low, added.high)],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
