"""What stock loaders make of a folder's files: which weights they read, and what the files would have them do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import read_text
from ..untrusted_json import parse_json
from .layout import VOCABULARIES

MOST_BYTES = 16 * 1024 * 1024  # of a manifest or a config
MOST_VOCABULARY_BYTES = 64 * 1024 * 1024
MOST_VOCABULARY_ENTRIES = 4_000_000
# Would have code run that is neither transformers' nor PEFT's.
CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "use_kernels", "kernel_config")
CODE_OF_ADAPTERS = {"parent_library": ("transformers", "sentence_transformers", "peft"), "megatron_config": ()}
# Would have other files loaded than those that stand under their usual names.
POINTERS = ("configuration_files", "fast_tokenizer_files", "transformers_weights", "use_pretrained_backbone")
OWN_NAMES = ("_name_or_path", "name_or_path")  # say where a model came from; nothing is loaded from there
WORDS = (*VOCABULARIES, "added_tokens.json")  # any word may be a key there
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
INDEX, ADAPTER_CONFIG = "model.safetensors.index.json", "adapter_config.json"


def parsed_files(folder: Path, names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The JSON among some files that loaders read, parsed once and strictly.

    Args:
        folder: The folder.
        names: Regular files in it.

    Returns:
        What the files hold, by their names; and a line for each one that cannot be read.
    """
    contents, problems = {}, []
    for name in names:
        if not name.endswith(".json") or name.startswith("selfdestruct/"):  # the evidence has its own readers
            continue
        try:
            if name in VOCABULARIES:
                text = read_text(folder / name, MOST_VOCABULARY_BYTES)
                contents[name] = parse_json(text, infinite=True, most=MOST_VOCABULARY_ENTRIES)
            else:
                contents[name] = parse_json(read_text(folder / name, MOST_BYTES), infinite=True)
        except ValueError as error:
            problems.append(f"{name}: cannot be searched for requests for code: {error}")
    return contents, problems


def dangers(folder: Path, names: list[str], contents: Mapping[str, Any], *, base: str) -> list[str]:
    """Files that ask for code or files of others, and weights that stock loaders would not read as they stand.

    Args:
        folder: The folder.
        names: Its listed files, regular ones.
        contents: What :func:`parsed_files` found in them.
        base: Hub id of the base model, where the card says one.

    Returns:
        One line per problem, naming the file.
    """
    found = []
    for name, content in contents.items():
        if name not in WORDS:
            found += [f"{name}: {what}" for what in sorted({*_requests(content)})]
    return found + _adapter_problems(names, contents, base) + _weight_problems(folder, names, contents)


def _requests(content: Any) -> Iterator[str]:
    """What JSON asks a loader for that it must not, at any depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        waiting += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
        for key, inner in value.items() if isinstance(value, dict) else ():
            if not inner:
                continue
            if key in CODE:
                yield f"asks for code from the repository ({key})"
            elif key in CODE_OF_ADAPTERS and str(inner).split(".", maxsplit=1)[0] not in CODE_OF_ADAPTERS[key]:
                yield f"asks for code of another library ({key})"
            elif key.endswith("_implementation") and any("/" in text for text in _texts(inner)):
                yield f"asks for code from the Hub ({key})"
            elif key in POINTERS or (key.endswith("_file") and isinstance(inner, str)):
                yield f"has other files loaded than those of the manifest ({key})"
            elif _is_elsewhere(key, inner):
                yield f"has another model loaded ({key})"


def _is_elsewhere(key: str, value: Any) -> bool:
    if key in OWN_NAMES or key == "base_model_name_or_path":  # the last is held to the card
        return False
    return isinstance(value, str) and (key.endswith("name_or_path") or (key == "backbone" and "/" in value))


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        waiting += one if isinstance(one, list) else one.values() if isinstance(one, dict) else ()
        if isinstance(one, str):
            yield one


def _adapter_problems(names: list[str], contents: Mapping[str, Any], base: str) -> list[str]:
    if ADAPTER_CONFIG not in names:
        return []
    if "config.json" in names:
        return [f"{ADAPTER_CONFIG}: beside config.json: stock loaders would put an adapter on the hardened model"]
    named = contents.get(ADAPTER_CONFIG)
    named = named.get("base_model_name_or_path") if isinstance(named, dict) else None
    if not isinstance(named, str) or not named or named.startswith((".", "/", "~")) or named.count("/") > 1:
        return [f"{ADAPTER_CONFIG}: base_model_name_or_path must be the base's name on the Hub, got {named!r}"]
    if base and named != base:
        return [f"{ADAPTER_CONFIG}: is of the base {named!r}; the card says {base!r}"]
    return []


def _weight_problems(folder: Path, names: list[str], contents: Mapping[str, Any]) -> list[str]:
    """The weights must be exactly those that a stock loader reads, each with the tensors that the index says."""
    expected: dict[str, set[str]] = {ADAPTER if ADAPTER_CONFIG in names else WEIGHTS: set()}
    if sharded := INDEX in names and not {WEIGHTS, ADAPTER_CONFIG} & {*names}:
        index = contents.get(INDEX)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            return [f"{INDEX}: has no weight_map of tensors to files"]
        expected = {place: {tensor for tensor in places if places[tensor] == place} for place in places.values()}
    found = [f"{name}: is no file of the weights in the manifest" for name in expected if name not in names]
    read = {*expected, *([INDEX] if sharded else [])}
    for name in [name for name in names if name.endswith((".safetensors", ".index.json"))]:
        if name not in read:
            found.append(f"{name}: no stock loader reads it")
        elif name in expected:
            found += _tensor_problems(folder / name, expected[name])
    return found


def _tensor_problems(path: Path, expected: set[str]) -> list[str]:
    try:
        with safe_open(path, framework="np") as tensors:
            held = {*tensors.keys()}
    except (SafetensorError, OSError) as error:
        return [f"{path.name}: not safetensors ({error})"]
    if not held:
        return [f"{path.name}: holds no weights"]
    if expected and held != expected:
        return [f"{path.name}: holds other weights than {INDEX} says"]
    return []
