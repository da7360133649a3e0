"""Cards and their parts."""

import re

from hf_selfdestruct.publish.card_details import CardDetails

DETAILS = CardDetails(
    title="Tiny BERT, gender blocked",
    license="apache-2.0",
    base_model="google-bert/bert-base-uncased",
    datasets=("bios/neutral",),
    language=("en",),
    pipeline_tag="text-classification",
    intended_use="Telling professions.",
    contact="security@example.org",
    release_plan="Open, in one stage.",
)


def section(card, heading):
    """The text under a heading of the second level."""
    (found,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found


def body_of(card):
    return card.split("---\n", 2)[2]


def tables(card):
    """Each table as its lines."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", body_of(card), flags=re.MULTILINE)]


def cells(line):
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]
