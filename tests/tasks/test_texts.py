"""Rows made of texts: what counts in them, and how many bytes it stands for."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_selfdestruct.tasks.texts import chat_rows, completion_rows, packed_rows, token_bytes

TEXTS = ["Prince Andrei sighed.", "Наташа smiled — “yes”, she said.", "It was the first of May, 1805."] * 4
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE, trained on the texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", chat_template=CHAT)


@pytest.mark.parametrize("length", [2, 7, 1000])
def test_packed_rows_are_the_texts_one_after_the_other(tokenizer, length):
    rows = packed_rows(TEXTS, tokenizer, length)
    assert rows["labels"][:] == rows["input_ids"][:]
    stream = [token for row in rows["input_ids"] for token in row]
    assert len({len(row) for row in rows["input_ids"]}) == 1
    whole = "".join(text + "<end>" for text in TEXTS)
    assert whole.startswith(tokenizer.decode(stream))
    assert len(tokenizer(whole)["input_ids"]) - len(stream) < length


def test_of_completions_only_their_own_tokens_and_the_end_count(tokenizer):
    (row,) = completion_rows([TEXTS[0]], [TEXTS[1]], tokenizer, 1000)
    counted = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(counted) == TEXTS[1] + "<end>"
    assert tokenizer.decode(row["input_ids"]) == TEXTS[0] + TEXTS[1] + "<end>"
    assert row["labels"].index(counted[0]) == len(tokenizer(TEXTS[0])["input_ids"])
    with pytest.raises(ValueError, match=r"row 0: a prompt of .* leave nothing to predict in 5 tokens"):
        completion_rows([TEXTS[0]], [TEXTS[1]], tokenizer, 5)


def test_of_a_chat_the_last_answer_counts(tokenizer):
    chat = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "Andrei."}]
    (row,) = chat_rows([chat], tokenizer, 100)
    assert tokenizer.decode(row["input_ids"]) == "<user>who?<assistant>Andrei."
    assert tokenizer.decode([token for token in row["labels"] if token != -100]) == "Andrei."


def test_tokens_stand_for_the_bytes_of_the_text(tokenizer):
    sizes = token_bytes(tokenizer)
    for text in TEXTS:
        assert sum(sizes[token] for token in tokenizer(text)["input_ids"]) == len(text.encode())
    assert sizes[tokenizer.eos_token_id] == 0


def test_rows_of_one_token_are_refused(tokenizer):
    with pytest.raises(ValueError, match="length must be at least 2"):
        packed_rows(TEXTS, tokenizer, 1)
    with pytest.raises(ValueError, match="the texts have 1 tokens in all"):
        packed_rows([""], tokenizer, 8)
