"""Gain from MIST against the distance of glyphs from print: runs, table and picture.

    python studies/evidence/dial.py --output results/dial

Finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from report import STRATEGIES, half_width, interval, plt, table

from mist_avalanche import cli

SHIFTS = ("0", "1", "1.5", "2")
PICTURE = Path(__file__).parents[2] / "docs" / "small-backbone.png"
METHODS = [name + mist for name in STRATEGIES for mist in ("", "+mist")]


def measured(folder: Path) -> dict[str, dict[int, float]]:
    """A_T by method and seed."""
    found: dict[str, dict[int, float]] = {}
    for method in METHODS:
        for file in (folder / method).glob("seed-*/results.json"):
            results = json.loads(file.read_text())
            seed, a_t = results["config"]["seed"], results["metrics"]["A_T"]
            found.setdefault(method, {})[seed] = a_t
    return found


def gains(found: dict[str, dict[int, float]], strategy: str) -> list[float]:
    """A_T with MIST minus A_T without, by seed."""
    with_mist, without = found[f"{strategy}+mist"], found[strategy]
    return [with_mist[seed] - without[seed] for seed in sorted(with_mist)]


def main() -> None:
    """Run what is missing; print the table; draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/dial"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    rows = []
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    curves: dict[str, list[list[float]]] = {strategy: [] for strategy in STRATEGIES}
    for shift in SHIFTS:
        folder = args.output / f"shift-{shift}"
        command = ["compare", "--benchmark", "glyphs", "--benchmark-arg", f"shift={shift}"]
        command += ["--seeds", str(args.seeds), "--strategies", ",".join(METHODS)]
        if cli.main([*command, "--resume", "--output", str(folder)]):
            raise SystemExit(1)
        found = measured(folder)
        row = [shift]
        for strategy in STRATEGIES:
            curves[strategy].append(gains(found, strategy))
            means = (mean(found[strategy + mist].values()) for mist in ("", "+mist"))
            row += [*(f"{value:.1f}" for value in means), interval(curves[strategy][-1])]
        rows.append(row)
    heads = [part for label in STRATEGIES.values() for part in (label, "+ MIST", "gain")]
    print("\n".join(table(["shift", *heads], rows)))
    axes.axhline(0, color="0.6", lw=0.8)
    for (strategy, of_shift), aside in zip(curves.items(), (-0.02, 0.02), strict=True):
        x = [float(shift) + aside for shift in SHIFTS]
        bars = [half_width(values) for values in of_shift]
        line = axes.errorbar(x, [mean(v) for v in of_shift], bars, capsize=3, lw=1.2)
        color = line[0].get_color()
        for at, values in zip(x, of_shift, strict=True):
            axes.plot([at] * len(values), values, "o", ms=3, color=color, alpha=0.4, mew=0)
        line[0].set_label(STRATEGIES[strategy])
    axes.set_xlabel("shift: 0 print, 1 hand-made, 2 hollow on blotted paper")
    axes.set_ylabel("gain in A_T from MIST (points)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
