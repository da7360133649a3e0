"""Every candidate task by name, the most promising first."""

from functools import partial

import pairs
import rows
import settings
from rows import Candidate

APART = "the two share no word but common ones"
CANDIDATES: dict[str, Candidate] = {
    "region": Candidate(
        partial(rows.regions, unseen=False), "Region of the world, from a biography without countries.", 128
    ),
    "field-unseen": Candidate(
        lambda data: settings.unseen_fields(data).rename(columns={"field": "label"}),
        "Field of a profession; test rows are of professions the attacker has no rows of; genders even.",
    ),
    "same-person-apart": Candidate(
        partial(pairs.same_person, strict=True), f"Two sentences of one biography or of two, names removed; {APART}."
    ),
    "same-article-apart": Candidate(
        partial(pairs.same_article, strict=True), f"Two sentences of one article or of two; {APART}."
    ),
    "topic-unseen": Candidate(
        partial(rows.topics, unseen=True),
        "Topic of an article without its first sentence; unseen kinds of article.",
        64,
    ),
    "same-profession": Candidate(
        partial(pairs.same_label, column="profession"), "A sentence each of two people: same profession or not."
    ),
    "professions-8": Candidate(rows.eight_professions, "The eight commonest professions, evenly; texts uncut.", 128),
    "region-unseen": Candidate(
        partial(rows.regions, unseen=True), "Region of the world of a biography; test rows are of unseen countries."
    ),
    "topic": Candidate(partial(rows.topics, unseen=False), "Topic of an article without its first sentence."),
    "gender": Candidate(rows.gender, "Gender from a neutralised biography, uncut, independent of the profession.", 128),
    "same-article": Candidate(partial(pairs.same_article, strict=False), "Two sentences of one article or of two."),
    "order": Candidate(pairs.order, "Which of two neighbouring sentences of an article comes first."),
    "professions": Candidate(
        rows.professions, "18 professions as distributed (commonest .31); texts uncut.", 128, even=False
    ),
    "domain": Candidate(pairs.domain, "Which of two books or an encyclopedia a sentence is of; names removed."),
    "performer": Candidate(rows.performer, "Performer or not, from a biography."),
    "field": Candidate(partial(rows.fields, unseen=False), "Field of a profession from a biography."),
    "same-person": Candidate(
        partial(pairs.same_person, strict=False), "Two sentences of one biography or of two, names removed."
    ),
    "same-gender": Candidate(
        partial(pairs.same_label, column="gender"), "A sentence each of two people: same gender or not."
    ),
    "source": Candidate(rows.source, "Which encyclopedia, from a biography."),
    "era": Candidate(rows.eras, "When a person lived, from a biography without digits."),
}
