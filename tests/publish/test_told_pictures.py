"""The figures told of the network of pictures are those of its card, and of the reports beside it."""

import html

from test_told_figures import CARDS, README, ROOT, card, lab, reached, spread, text


def test_figures_of_pictures():
    report, last, told = card("cifar10-animals"), lab("animals-last-layer"), text(CARDS / "README.md")
    ways = ("joined probe, then fine-tuning", "full fine-tuning")
    first, alone, first_last, alone_last = (
        {role: spread(s) for role, s in reached(one, "animals", way, 560).items()}
        for one in (report, last)
        for way in ways
    )
    both = f"reaches {first['hardened']}, undefended {first['undefended']}; against an adversary that reads the last"
    assert f"then fine-tuning, {both} layer alone {first_last['hardened']}." in README
    assert f"fine-tuning reaches {first['hardened']} from the hardened model and {first['undefended']} from the" in told
    assert f"under a fresh head {alone['hardened']} and {alone['undefended']}." in told
    assert (
        f"{first_last['hardened']} from a probe of all layers on, {alone_last['hardened']} under a fresh head" in told
    )
    few = {role: spread(report.strongest("animals", 100, role)) for role in ("hardened", "undefended")}
    assert f"With 100 pictures it is {few['hardened']} against {few['undefended']}." in told
    assert f"({alone['scratch']} by fine-tuning)" in told
    kept, before = (
        {role: f"{one.desired.of(role)['accuracy']:.3f}" for role in ("hardened", "undefended")}
        for one in (report, last)
    )
    assert f"The price: vehicles {kept['hardened']}, undefended {kept['undefended']}." in README
    assert f"({kept['hardened']}, undefended {kept['undefended']})" in told
    assert f"vehicles {before['hardened']}." in told
    lines = (CARDS / "cifar10-animals" / "README.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| 560 | 0.393")]
    hardened, undefended, base = html.unescape(row).split(" | ")[3:6]
    assert f"The weights add {hardened}, undefended {undefended.split()[0]}." in README
    assert f"the base's weights add {base.split()[0].lstrip('+')} to" in told
    methods = text(ROOT / "docs" / "methods.md")
    assert (
        f"it leaves {first['hardened']} ([card](evidence/card-animals.md), undefended {first['undefended']})" in methods
    )
    assert f"from {undefended.split()[0]} to {hardened}, and" in methods
    assert f"vehicles {kept['hardened']}, undefended {kept['undefended']}." in methods
    longer = [
        next(run for run in lab(f"animals-{steps}-steps{which}").runs if run.role == "hardened")
        for steps in (600, 1200)
        for which in ("", "-undefended")
    ]
    tested, chosen = ([f"{getattr(run, of).accuracy:.3f}" for run in longer] for of in ("test", "selection"))
    few, many = "{} hardened and {} undefended".format(*tested), " and ".join(tested[2:])
    assert f"rows: {few} with 600 steps, {many} with 1,200." in README
    assert f"with 600 steps {few}, with 1,200 steps {many} (one seed, development rows)" in methods
    assert (
        "{} from the hardened model and {} from the undefended one, 1,200 steps {} and {} (on".format(*tested) in told
    )
    assert "rows {} and {}, {} and {}).".format(*chosen) in told
