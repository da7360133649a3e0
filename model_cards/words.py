r"""What words alone give an attacker, without any model, at every number of examples of the suite ``quick``.

    python model_cards/words.py OUT.json examples/wikibios_general.yaml examples/wikibios_roles_swapped.yaml \
        --data.path DIR --model MODEL

The reference of the suites on the raw input: logistic regression on the TF-IDF of tokens (and pairs), or naive Bayes,
chosen with its strength on the selection split, on the same rows as the cards.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_selfdestruct.attacks import AttackData, Target, named_suite
from hf_selfdestruct.attacks.methods.references import RawInput
from hf_selfdestruct.attacks.suites.ledger import Ledger
from hf_selfdestruct.attacks.suites.search import Search
from hf_selfdestruct.jobs.config import HardenConfig, load_config
from hf_selfdestruct.jobs.job import blocked_tasks
from hf_selfdestruct.jobs.text_data import load_data
from hf_selfdestruct.tasks.blocked_task import BlockedTask


def main(out: str, *words: str) -> None:
    """Run and save, by blocked task and number of examples, the test accuracies over attack seeds."""
    found = {}
    for _, tokenizer, tasks in configured(words):
        for task in tasks:
            data = AttackData.of(task, tokenizer.model_input_names, DataCollatorWithPadding(tokenizer))
            found[task.name] = measured(data)
    Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def configured(words: Sequence[str]) -> Iterator[tuple[HardenConfig, PreTrainedTokenizerBase, list[BlockedTask]]]:
    """The configuration files among these words, with the rest as overrides: tokenizer and blocked tasks of each."""
    files = [word for word in words if word.endswith(".yaml")]
    for file in files:
        config = load_config(file, words[len(files) :])
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        yield config, tokenizer, blocked_tasks(config, load_data(config, tokenizer), tokenizer)


def measured(data: AttackData) -> dict[str, list[float]]:
    """Test accuracies of the chosen settings at each number of examples."""
    suite, ledger = named_suite("quick"), Ledger()
    found = {}
    for examples in sorted({n for _, n in suite.plan(len(data.train.labels))}):
        search = Search(RawInput(), Target("raw", ""), data, examples, suite.repeats(examples), f"words/{examples}")
        search.work(ledger, lambda run: None)
        found[str(examples)] = [run.test.accuracy for run in search.recall(ledger) if run.chosen and run.test]
        sys.stderr.write(f"{data.task} {examples}: {statistics.fmean(found[str(examples)]):.3f}\n")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
