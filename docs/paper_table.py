"""The index of papers, the list of attacks and the list of suites, read from docstrings, citations and the suites."""

import ast
import inspect
import re
from collections.abc import Iterator

from tables import ROOT, assigned, parsed, summary, table

from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.losses.blocking import BLOCKING_LOSSES
from hf_selfdestruct.losses.keeping import KEEPING_LOSSES

PACKAGE = ROOT / "hf_selfdestruct"
PAPER = re.compile(r"\b(\d{4}\.\d{5})\b")
TITLES = {  # numbers that the package's sources name
    "1503.02531": "Distilling the Knowledge in a Neural Network",
    "1503.05671": "Optimizing Neural Networks with Kronecker-factored Approximate Curvature (K-FAC)",
    "1711.05101": "Decoupled Weight Decay Regularization (AdamW)",
    "1801.06146": "Universal Language Model Fine-tuning (gradual unfreezing)",
    "1802.04434": "signSGD",
    "1803.05449": "SentEval",
    "1412.6980": "Adam",
    "1907.11274": "Reducing malicious use of synthetic media research",
    "1908.10084": "Sentence-BERT",
    "1910.02054": "ZeRO",
    "1910.08475": "On Warm-Starting Neural Network Training (shrink and perturb)",
    "2004.07667": "Null It Out (INLP)",
    "2004.09813": "Making Monolingual Sentence Embeddings Multilingual",
    "2002.08546": "Do We Really Need to Access the Source Data? (SHOT)",
    "2006.11239": "Denoising Diffusion Probabilistic Models (DDPM)",
    "2010.03934": "Prioritized Level Replay",
    "2202.10054": "Fine-Tuning can Distort Pretrained Features (linear probe, then fine-tune)",
    "2211.14946": "Self-Destructing Models (MLAC)",
    "2104.08691": "The Power of Scale for Parameter-Efficient Prompt Tuning",
    "2406.11717": "Refusal in Language Models Is Mediated by a Single Direction",
    "2212.04089": "Editing Models with Task Arithmetic",
    "2305.14314": "QLoRA",
    "2306.03819": "LEACE",
    "2404.12699": "SOPHON",
    "2408.00761": "TAR",
    "2409.01586": "Booster",
    "2505.16559": "CTRAP",
    "2606.17168": "RepSelect",
    "2506.06278": "UNDO: distillation robustifies unlearning",
    "2503.13751": "Optimizing ML Training with Metagradient Descent (metasmoothness)",
}


def papers() -> str:
    """Each paper that the sources name, and the modules that name it."""
    places: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        for number in PAPER.findall(file.read_text(encoding="utf-8")):
            places.setdefault(number, set()).add(module)
    if unknown := sorted(places.keys() - TITLES.keys()):
        raise ValueError(f"{', '.join(places[unknown[0]])} names arXiv {unknown[0]}: add its title to TITLES.")
    rows = [
        (TITLES[number], f"[{number}](https://arxiv.org/abs/{number})", ", ".join(f"`{m}`" for m in sorted(modules)))
        for number, modules in sorted(places.items())
    ]
    return table(("paper", "arXiv", "used in"), rows)


def attacks() -> str:
    """Each attack, what it does in its docstring's words, and its source where that names one."""
    rows = []
    for name, doc in _attack_classes():
        source = PAPER.search(doc)
        link = f"[{source[1]}](https://arxiv.org/abs/{source[1]})" if source else "standard"
        text = re.sub(r" \(\d{4}\.\d{5}\)|\(signum, \d{4}\.\d{5}\)", "", summary(doc))
        rows.append((f"`{name}`", text, link))
    losses = [*BLOCKING_LOSSES.items(), *KEEPING_LOSSES.items()]
    loss_rows = [(f"`{name}`", summary(inspect.getdoc(loss)), loss.citation or "ours") for name, loss in losses]
    return (
        "### Attacks and changes of the weights\n\n"
        + table(("class", "what it does", "source"), rows)
        + "\n### Losses\n\n"
        + table(("name in a configuration", "what it measures", "source"), loss_rows)
    )


def _attack_classes() -> Iterator[tuple[str, str]]:
    """Public subclasses of `Attack` and of `Tamper` with their docstrings, a file after the other."""
    kinds = {"Attack", "Tamper", "Tuning", "HeadOnly", "ProbedFirst", "WithSibling"}
    for file in sorted((PACKAGE / "attacks" / "methods").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or node.name in ("WithSibling", "Chain"):
                continue
            if {ast.unparse(base) for base in node.bases} & kinds:
                yield node.name, ast.get_docstring(node) or ""


def suites() -> str:
    """Each shipped suite: version, attacks, seeds."""
    rows = []
    files = ("shipped", "papers", "images", "diffusion", "language")
    known = {name for file in files for name in assigned(parsed(f"hf_selfdestruct/attacks/suites/{file}.py"))}
    for suite in SUITES.values():
        if suite.name.upper() not in known:
            raise ValueError(f"suite {suite.name!r} is a top-level name of none of {', '.join(files)}.")
        names = dict.fromkeys(entry.attack.name for entry in suite.entries)
        rows.append((f"`{suite.name}`", str(suite.version), str(suite.seeds), "; ".join(names)))
    return table(("suite", "version", "seeds", "attacks"), rows)
