"""How training scripts end: ``save_model``, ``create_model_card`` and ``push_to_hub``, as ``Trainer`` has them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from ..files import locked, write_whole
from ..publish.card import CARD_TAGS, details_of, plain
from ..publish.card_details import CardDetails
from ..publish.hub import push
from ..publish.manifest import MANIFEST, SIGNATURE, config_file, renew_card, stamp_config
from ..publish.staging import WAIT
from .provenance import WORDS, known_details, said

if TYPE_CHECKING:
    from .base import HardeningTrainer
    from .training_args import SelfDestructTrainingArguments

DRAFT = """---
{head}
---

# {title}

**Not attacked yet.** This model was made with hf_selfdestruct{blocked}. Nothing was measured: whether the model
resists fine-tuning is not known. `trainer.attack()` attacks the model and replaces this card by one with the evidence.
"""

ADAPTER = """---
base_model: {base}
library_name: peft
---

# {title}

**This adapter can be taken off.** It was made with hf_selfdestruct{blocked}, and whoever has the base loads it without
the adapter: nothing is blocked then. What was attacked, if anything, is the model with the adapter merged into its
weights; publish that one.
"""

MODEL = ("model.safetensors", "model.safetensors.index.json", "selfdestruct")  # one of them is in a model's folder

logger = logging.getLogger(__name__)


def unpublished(args: SelfDestructTrainingArguments) -> SelfDestructTrainingArguments:
    """The arguments, where ``push_to_hub`` no longer uploads whatever is saved; said once."""
    if args.push_to_hub:
        args.push_to_hub = False
        logger.warning(
            "push_to_hub=True: training uploads nothing; call trainer.push_to_hub() after trainer.attack() to publish."
        )
    return args


@contextmanager
def stamp_kept(trainer: HardeningTrainer, output_dir: str | Path | None) -> Iterator[None]:
    """Save within it: a folder with evidence keeps the stamp in its configuration, so that equal weights verify."""
    folder = Path(output_dir or trainer.folder)
    path = config_file(folder)
    stamp = None
    if trainer.is_world_process_zero() and (folder / MANIFEST).is_file() and path.is_file():
        stamp = json.loads(path.read_text(encoding="utf-8")).get("hf_selfdestruct")
    yield
    if stamp is not None:
        stamp_config(folder, stamp)


def create_card(trainer: HardeningTrainer, *arguments: Any, **named: Any) -> dict[str, Any]:
    """Put a script's words on the evidence card; before there is evidence, write a card that says so.

    Args:
        trainer: A trainer.
        *arguments: As for ``Trainer.create_model_card``.
        **named: As for it.

    Returns:
        All words that were given so far, for the card that a later attack writes.

    Raises:
        TypeError: A word that ``Trainer`` does not take either.
        ValueError: The folder holds evidence of other files, or a signature.
    """
    words = dict(zip(WORDS, arguments, strict=False)) | named
    if unknown := sorted(words.keys() - WORDS.keys()):
        raise TypeError(f"create_model_card() takes {', '.join(WORDS)}; got {', '.join(unknown)}.")
    folder, so_far = trainer.folder, trainer.card_words | words
    if not trainer.is_world_process_zero():
        return so_far
    if (folder / MANIFEST).is_file():
        _renew(folder, words, signs=False)
        return so_far
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "README.md", _draft(trainer, so_far))
    return so_far


def save_adapter(trainer: HardeningTrainer, folder: str | Path) -> None:
    """Write the adapter that was trained as PEFT does, with a card that says what it is not.

    Raises:
        ValueError: No adapter was trained, it is not all that changed, or the folder holds a model.
    """
    adapter, folder = trainer.objective.adapter, Path(folder)
    if adapter is None:
        raise ValueError("no adapter is trained here: give the trainer peft_config=, or call save_model().")
    if adapter.restarts > 1 or not adapter.is_whole():
        raise ValueError(
            "the adapter is not all that training changed: the weights are those of the best step "
            "(load_best_model_at_end), or the model was trained more than once; call save_model(), which writes all."
        )
    if folder.resolve() == trainer.folder.resolve() or any((folder / name).exists() for name in MODEL):
        raise ValueError(f"{folder} holds a model, and would be loaded with the adapter on it; name another folder.")
    if not trainer.is_world_process_zero():
        return
    base, tasks = trainer.plain_model().name_or_path, ", ".join(task.name for task in trainer.blocked_tasks)
    folder.mkdir(parents=True, exist_ok=True)
    adapter.save(folder, base or str(trainer.folder / "_base"))
    words = {"base": json.dumps(base or "unknown"), "title": plain(folder.resolve().name)}
    write_whole(folder / "README.md", ADAPTER.format(**words, blocked=plain(f" to block {tasks}" if tasks else "")))


def publish(trainer: HardeningTrainer, message: str | None, **named: Any) -> Any:
    """Put a script's words on the card, and upload the folder, by one process.

    Args:
        trainer: A trainer.
        message: The commit's.
        **named: What :func:`hub.push` takes and what ``Trainer.create_model_card`` takes.

    Returns:
        What the Hub says of the commit.

    Raises:
        ValueError: There is no evidence yet, or as :func:`hub.push`.
    """
    trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)
    if not trainer.is_world_process_zero():
        return None
    args, folder = trainer.args, trainer.folder
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} contains no evidence to publish: call trainer.attack() before trainer.push_to_hub()."
        )
    words = {name: named.pop(name) for name in WORDS if name in named}
    usual = {"token": args.hub_token, "private": args.hub_private_repo, "revision": args.hub_revision}
    named = {**named, **{name: usual[name] for name in usual if named.get(name) is None}}
    _renew(folder, words, signs=named.get("key") is not None)
    return push(
        folder, args.hub_model_id or folder.resolve().name, message=message or "Publish hardened model", **named
    )


def _renew(folder: Path, words: Mapping[str, Any], *, signs: bool) -> None:
    """Write ``card.json`` and the card again, where a script's words change them."""
    path = folder / "selfdestruct" / "card.json"
    with locked(folder, wait=WAIT):
        held = details_of(folder)
        renewed = said(held, words)
        if renewed == held:
            return
        if (folder / SIGNATURE).exists() and not signs:
            raise ValueError(f"{folder}: {SIGNATURE} signs a card without these words; give key= to sign again.")
        write_whole(path, renewed.to_json())
        try:
            renew_card(folder)
        except ValueError:
            write_whole(path, held.to_json())
            raise
        (folder / SIGNATURE).unlink(missing_ok=True)  # it signed the earlier card


def _draft(trainer: HardeningTrainer, words: Mapping[str, Any]) -> str:
    model = trainer.plain_model()
    held = CardDetails().of_model({"architectures": [type(model).__name__]})
    details = known_details(trainer, said(held, words))
    head = ModelCardData(
        language=list(details.language) or None,
        license=details.license or None,
        library_name="transformers",
        tags=[*CARD_TAGS, *details.tags],
        base_model=details.base_model or None,
        datasets=list(details.datasets) or None,
        pipeline_tag=details.pipeline_tag or None,
    )
    tasks = ", ".join(task.name for task in trainer.blocked_tasks)
    return DRAFT.format(
        head=head.to_yaml(),
        title=plain(details.title or trainer.folder.resolve().name),
        blocked=plain(f" to block {tasks}" if tasks else ""),
    )
