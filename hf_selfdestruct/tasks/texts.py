"""Rows of language models: texts packed to one length, completions after prompts, chats; and the bytes of tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from .language_modeling import IGNORED

SPACE, CONTINUED = "▁", "##"  # of SentencePiece, and of WordPiece
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def packed_rows(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    """Texts one after the other, an end-of-text token after each, cut into rows of ``length`` tokens.

    What is left over at the end is dropped, unless it is all there is. A row may hold several texts, and a token sees
    those before its own, as is usual in pre-training.

    Args:
        texts: The texts.
        tokenizer: Tokenises them; without special tokens of its own beside ``eos_token``.
        length: Tokens of a row, at least 2.

    Raises:
        ValueError: The length is below 2, or there are too few tokens for one row.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, for the first token of a row is not predicted; got {length}.")
    stream = [*itertools.chain.from_iterable(_ended(text, tokenizer) for text in texts)]
    rows = [stream[start : start + length] for start in range(0, len(stream), length)]
    rows = [row for row in rows if len(row) == length] or [row for row in rows if len(row) > 1]
    if not rows:
        raise ValueError(f"the texts have {len(stream)} tokens in all; a row needs at least 2.")
    return _dataset((row, row) for row in rows)


def completion_rows(
    prompts: Sequence[str], completions: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> Dataset:
    """Completions after their prompts; only the tokens of the completion, and the end of the text, count.

    Args:
        prompts: What is given.
        completions: What is to be predicted.
        tokenizer: Tokenises both, apart.
        length: Most tokens of a row; longer rows are cut at the end.

    Raises:
        ValueError: The prompts are not as many as the completions, or a prompt leaves no place for its completion.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts and {len(completions)} completions: give each prompt one completion.")
    starts = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    ends = [_ended(completion, tokenizer) for completion in completions]
    return _dataset(_completed(starts, ends, length))


def chat_rows(chats: Sequence[Sequence[dict[str, str]]], tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    """Chats by the tokenizer's template; only the last message, an assistant's, counts.

    Args:
        chats: Lists of messages, as ``tokenizer.apply_chat_template`` takes them.
        tokenizer: With a chat template.
        length: Most tokens of a row; longer rows are cut at the end.

    Raises:
        ValueError: The template writes the prompt otherwise when the answer follows, or leaves no place for it.
    """
    starts, ends = [], []
    for number, chat in enumerate(chats):
        options: dict[str, Any] = {"tokenize": False}
        prompt = str(tokenizer.apply_chat_template([*chat[:-1]], add_generation_prompt=True, **options))
        whole = str(tokenizer.apply_chat_template([*chat], **options))
        if not whole.startswith(prompt):
            raise ValueError(
                f"chat {number}: the template writes other words before the answer than for a prompt; give prompts and "
                "completions to completion_rows() instead."
            )
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, whole[len(prompt) :])]
        starts.append(parts[0])
        ends.append(parts[1])
    return _dataset(_completed(starts, ends, length))


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The UTF-8 bytes that each token of a vocabulary stands for, special tokens for none.

    Exact for byte-level BPE, and for SentencePiece up to the space before a text; of whole words the space before each
    counts, as a text has it.
    """
    pieces = tokenizer.convert_ids_to_tokens([*range(len(tokenizer))])
    special = {*tokenizer.all_special_ids}
    space = next((mark for mark in ("Ġ", SPACE) if any(mark in str(piece) for piece in pieces)), "")
    return tuple(0 if i in special or piece is None else _bytes(piece, space) for i, piece in enumerate(pieces))


def _bytes(piece: str, space: str) -> int:
    if space == "Ġ":  # each character stands for a byte
        return len(piece)
    if BYTE.fullmatch(piece):
        return 1
    if space:
        return len(piece.replace(SPACE, " ").encode())
    return len(piece.removeprefix(CONTINUED).encode()) + (not piece.startswith(CONTINUED))


def _ended(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.eos_token_id
    return [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], *([] if end is None else [end])]


def _completed(
    starts: Iterable[list[int]], ends: Iterable[list[int]], length: int
) -> Iterator[tuple[list[int], list[int]]]:
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if len(start) >= length or not end:
            raise ValueError(
                f"row {number}: a prompt of {len(start)} tokens and a completion of {len(end)} leave nothing to "
                f"predict in {length} tokens: give a larger length, or shorter prompts."
            )
        yield (start + end)[:length], ([IGNORED] * len(start) + end)[:length]


def _dataset(rows: Iterable[tuple[list[int], list[int]]]) -> Dataset:
    tokens, labels = zip(*rows, strict=True)
    masks = [[1] * len(row) for row in tokens]
    return Dataset.from_dict({"input_ids": [*tokens], "attention_mask": masks, "labels": [*labels]})
