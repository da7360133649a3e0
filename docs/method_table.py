"""What each preset is: its source, its settings, its cost, and what was measured of it, from the presets themselves."""

import re
from typing import Any

from tables import ROOT, table

from hf_selfdestruct import SelfDestructTrainingArguments
from hf_selfdestruct.hardening.defaults import configured_adversary
from hf_selfdestruct.hardening.presets import MLAC, PRESETS
from hf_selfdestruct.trainer.cost import passes

SOURCE = ROOT / "hf_selfdestruct" / "hardening" / "presets.py"
NOT_MEASURED = "not measured"
WITHDRAWN = "withdrawn: an outside attacker beat the suite ([cards](evidence/cards.md))"
MEASURED = {  # what a committed table says of it; the others are not measured
    "general": WITHDRAWN,
    "one_purpose": WITHDRAWN,
    "mlac_fast": "on MiniLM nothing beyond training on the desired task ([lab book](evidence/cards.md))",
    "pool": "small networks and a small vision transformer, with other rates: fine-tuning ends near what scratch "
    "reaches, on real digits too; on pretrained language encoders no effect has been shown ([study](evidence/pool.md))",
    "relearn": "two layers of MiniLM: what the base knows is forgotten, the desired task is not "
    "([lab book](evidence/relearned.md))",
}
FORMS = ("merge_words", "erase_directions", "keep_directions", "selective_steps", "noise")
WORDS = {  # settings as a table shows them
    "exact": "exact (second order)",
    "first_order": "first order",
    "head_adjusted_cross_entropy": "cross-entropy after the best linear recalibration",
    "negative_cross_entropy": "negative cross-entropy",
    "uniform_kl": "KL from the uniform distribution",
    "cross_entropy": "cross-entropy before minus after",
    "entropy": "missing entropy",
    "collapse": "collapse of general text",
}


def presets() -> str:
    """Source, cost and measured effect of each preset."""
    rows = [(f"`{name}`", _source(name), f"{cost(name):.3g}", MEASURED.get(name, NOT_MEASURED)) for name in PRESETS]
    return table(("`method=`", "source", "passes a step", "measured effect"), rows)


def parts() -> str:
    """What each preset does: its adversary, its blocking loss, its closed forms."""
    columns = ("`method=`", "adversary", "blocking loss", "closed forms first")
    return table(columns, [_parts(name, PRESETS[name]) for name in PRESETS])


def settings() -> str:
    """Every setting of every preset that is not as in `mlac`."""
    base = _flat(MLAC)
    rows = [("mlac", "; ".join(f"`{name}={value}`" for name, value in base.items()))]
    for name in [one for one in PRESETS if one != "mlac"]:
        own = _flat(PRESETS[name])
        changed = {key: value for key, value in own.items() if base.get(key, object()) != value}
        rows.append((name, "as `mlac`, but " + "; ".join(f"`{key}={value}`" for key, value in changed.items())))
    return table(("method", "settings"), [(f"`{name}`", words) for name, words in rows])


def cost(name: str) -> float:
    """Forward-backward passes of one outer step, where ordinary training makes one."""
    args = SelfDestructTrainingArguments("unused", method=name, use_cpu=True, report_to="none").filled("mlac")
    return passes(args, [configured_adversary(args)])


def _parts(name: str, preset: dict[str, Any]) -> tuple[str, ...]:
    adversary, options = preset["adversary"], preset["method_options"]
    optimizers = adversary["optimizer"] if isinstance(adversary["optimizer"], list) else [adversary["optimizer"]]
    steps = "K = 0" if not adversary["steps"] else f"K = {adversary['steps']}, {' or '.join(optimizers)}"
    lasting = f"; {adversary['pool']} continue for {adversary['horizon']} steps each" if adversary.get("pool") else ""
    order = "" if not adversary["steps"] else f", {WORDS[preset['meta_gradient']]}"
    forms = [f"`{key}`" for key in FORMS if options[key]]
    loss = WORDS[preset["blocking_loss"]] + (" and probes of all layers" if options["probe_weight"] else "")
    loss += ", in steps of its own" if options.get("blocking_learning_rate") else ""
    if first := options["unlearn_steps"]:
        return f"`{name}`", "none", f"{loss}, in the first {first} steps", f"then {', '.join(forms)}"
    if not preset["blocking_weight"]:
        return f"`{name}`", "none", "none", ", ".join(forms)
    return f"`{name}`", f"{steps}{order}{lasting}", loss, ", ".join(forms) or "none"


def _source(name: str) -> str:
    """The paper that the comments of a preset name; ours where they say so."""
    text = SOURCE.read_text(encoding="utf-8")
    start = text.index(f"\n{name.upper()}: dict")
    above = re.search(r"((?:^#.*\n)*)\Z", text[: start + 1], re.MULTILINE)
    comments = above[1] if above else ""
    end = text.find("\n}\n", start)
    found = re.search(r"\b(\d{4}\.\d{5})\b", comments or text[start:end])
    if comments.startswith("# Ours"):
        return "ours, on `mlac`"
    if "MLAC paper's baseline" in comments:
        return "[2211.14946](https://arxiv.org/abs/2211.14946), its baseline"
    if found is None:
        raise ValueError(f"{SOURCE}: the comments of {name.upper()} name no source; name its paper, or write Ours.")
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})"


def _flat(preset: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in preset.items():
        if isinstance(value, dict) and key in ("adversary", "method_options"):
            found |= _flat(value, f"{key}.")
        else:
            found[prefix + key] = value
    return found
