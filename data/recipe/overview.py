"""Draw the README's figure and print its table of results, from what `make report` left: python overview.py [DIR]."""

import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd

from sslsim import DATA, read_lineup
from sslsim.analysis import summaries as readings
from sslsim.comparison import tables
from sslsim.figures import heatmaps as plots

PANELS = {"neurons": ["max_corr", "linreg"], "layers": ["linear_cka_debiased"]}
ROWS = {
    "max_corr": "best single neuron",
    "matched_corr": "one-to-one neurons",
    "linreg": "all neurons together",
    "svcca": "subspace",
    "linear_cka_debiased": "geometry",
    "pearson": "attention",
}
COLUMNS = ("other seed", "same family", "other family", "untrained")


def draw(reports: Path) -> None:
    """Write data/overview.png: one heatmap a measure, side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(19.5, 5.6), layout="constrained")
    drawn = iter(axes)
    for notebook, measures in PANELS.items():
        table = pd.read_parquet(reports / "tables" / f"{notebook}-pairs.parquet")
        for measure in measures:
            plots.heatmap(table, measure, ax=next(drawn))
    figure.savefig(DATA / "overview.png", dpi=80, bbox_inches="tight", metadata={"Software": None})


def results(reports: Path) -> str:
    """Return Markdown: mean similarity of pretrained models at the same relative depth, by relation."""
    names = ("neurons", "layers", "attention")
    grids = [pd.read_parquet(reports / "tables" / f"{name}-pairs.parquet") for name in names]
    grid = pd.concat(grids, ignore_index=True)
    grid = grid[grid.standardize & grid.measure.isin(ROWS)].drop_duplicates(["measure", *tables.SIDES])
    lineup = {c.name: c for c in read_lineup(DATA / "lineup.toml")}
    layers = grid.groupby("model_x").layer_x.max() + 1
    stores = [SimpleNamespace(checkpoint=c, n_layers=int(layers.get(name, 1))) for name, c in lineup.items()]
    apart = [name for name, c in lineup.items() if not c.finetuned_from]
    trained = [name for name in apart if lineup[name].weights == "trained"]
    pairs = grid[readings.aligned(grid, stores) & grid.model_x.isin(apart) & grid.model_y.isin(apart)]
    pairs = pairs[pairs.model_x.isin(trained) | pairs.model_y.isin(trained)]
    pairs = readings.relate(pairs, stores)
    means = pairs.groupby(["measure", "relation"]).value.mean()
    tuned = pd.read_parquet(reports / "tables" / "finetuning-by-layer.parquet")
    lines = [
        "| | " + " | ".join([*COLUMNS, "finetuned, first layer to last"]) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for measure, words in ROWS.items():
        cells = [f"{means[measure, relation]:.2f}" for relation in COLUMNS]
        left = tuned[(tuned.measure == measure) & tuned.standardize]
        ends = [left[left.layer == left.groupby("pretrained").layer.transform(end)].value for end in ("min", "max")]
        cells.append(f"{ends[0].mean():.2f} to {ends[1].mean():.2f}" if len(left) else "")
        lines.append(f"| {words} (`{measure}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claims(reports: Path) -> str:
    """Return Markdown: the verdicts of the four notebooks, one below the other."""
    lines = ["| claim | between | effect (95 % interval) | p | control | holds |", "|---|---|---|---|---|---|"]
    for name in ("neurons", "layers", "attention", "finetuning"):
        for row in pd.read_parquet(reports / "tables" / f"{name}-verdict.parquet").itertuples():
            effect = "" if pd.isna(row.effect) else f"{row.effect:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"
            p = "" if pd.isna(row.p) else f"{row.p:.2g}"
            cells = [f"{row.claim} (`{row.measure}`)", row.between, effect, p, row.control, row.holds]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "reports")
    draw(folder)
    print(results(folder), claims(folder), sep="\n\n")
