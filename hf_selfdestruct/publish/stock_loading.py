"""How stock loaders treat a folder's files: which weights they read, and which code or files they are asked to load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import read_text
from ..untrusted_json import parse_json
from .layout import VOCABULARIES

MOST_BYTES = 16 * 1024 * 1024  # size limit of a manifest or a config
MOST_VOCABULARY_BYTES = 64 * 1024 * 1024
MOST_VOCABULARY_ENTRIES = 4_000_000
# Keys that make a loader run code other than that of transformers and PEFT.
CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "use_kernels", "kernel_config")
CODE_OF_ADAPTERS = {"parent_library": ("transformers", "sentence_transformers", "peft"), "megatron_config": ()}
# Keys that make a loader read files other than the usual ones.
POINTERS = ("configuration_files", "fast_tokenizer_files", "transformers_weights", "use_pretrained_backbone")
OWN_NAMES = ("_name_or_path", "name_or_path")  # the origin of a model; nothing is loaded from it
WORDS = (*VOCABULARIES, "added_tokens.json")  # files with arbitrary words as keys
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
INDEX, ADAPTER_CONFIG = "model.safetensors.index.json", "adapter_config.json"


def parsed_files(folder: Path, names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Parse, strictly, the JSON files that loaders read.

    Args:
        folder: The folder.
        names: Regular files in the folder.

    Returns:
        The content of each file by name, and one line for each unreadable file.
    """
    contents, problems = {}, []
    for name in names:
        if not name.endswith(".json") or name.startswith("selfdestruct/"):  # the evidence is parsed elsewhere
            continue
        try:
            if name in VOCABULARIES:
                text = read_text(folder / name, MOST_VOCABULARY_BYTES)
                contents[name] = parse_json(text, infinite=True, most=MOST_VOCABULARY_ENTRIES)
            else:
                contents[name] = parse_json(read_text(folder / name, MOST_BYTES), infinite=True)
        except ValueError as error:
            problems.append(f"{name}: cannot check it for requests to load code: {error}")
    return contents, problems


def dangers(folder: Path, names: list[str], contents: Mapping[str, Any], *, base: str) -> list[str]:
    """Find files that request foreign code or files, and weights that stock loaders would not read.

    Args:
        folder: The folder.
        names: The listed regular files.
        contents: Their content from :func:`parsed_files`.
        base: Hub id of the base model, if the card states one.

    Returns:
        One line per problem, naming the file.
    """
    found = []
    for name, content in contents.items():
        if name not in WORDS:
            found += [f"{name}: {what}" for what in sorted({*_requests(content)})]
    return found + _adapter_problems(names, contents, base) + _weight_problems(folder, names, contents)


def _requests(content: Any) -> Iterator[str]:
    """Yield the forbidden requests in JSON, at any depth."""
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
                yield f"asks for files that are not in the manifest ({key})"
            elif _is_elsewhere(key, inner):
                yield f"asks for another model ({key})"


def _is_elsewhere(key: str, value: Any) -> bool:
    if key in OWN_NAMES or key == "base_model_name_or_path":  # the last is checked against the card
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
        return [
            f"{ADAPTER_CONFIG}: lies beside config.json, so stock loaders would add an adapter to the hardened model"
        ]
    named = contents.get(ADAPTER_CONFIG)
    named = named.get("base_model_name_or_path") if isinstance(named, dict) else None
    if not isinstance(named, str) or not named or named.startswith((".", "/", "~")) or named.count("/") > 1:
        return [f"{ADAPTER_CONFIG}: base_model_name_or_path must be the base's name on the Hub, got {named!r}"]
    if base and named != base:
        return [f"{ADAPTER_CONFIG}: names the base {named!r}, but the card states {base!r}"]
    return []


def _weight_problems(folder: Path, names: list[str], contents: Mapping[str, Any]) -> list[str]:
    """Check that the weight files are exactly those that a stock loader reads, with the tensors of the index."""
    expected: dict[str, set[str]] = {ADAPTER if ADAPTER_CONFIG in names else WEIGHTS: set()}
    if sharded := INDEX in names and not {WEIGHTS, ADAPTER_CONFIG} & {*names}:
        index = contents.get(INDEX)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            return [f"{INDEX}: has no weight_map of tensors to files"]
        expected = {place: {tensor for tensor in places if places[tensor] == place} for place in places.values()}
    found = [f"{name}: required by stock loaders, but not in the manifest" for name in expected if name not in names]
    read = {*expected, *([INDEX] if sharded else [])}
    for name in [name for name in names if name.endswith((".safetensors", ".index.json"))]:
        if name not in read:
            found.append(f"{name}: stock loaders do not read it")
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
        return [f"{path.name}: contains no weights"]
    if expected and held != expected:
        return [f"{path.name}: contains other tensors than {INDEX} lists"]
    return []
