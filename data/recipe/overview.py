"""What the README shows of a report: python data/recipe/overview.py REPORTS.

Writes data/page.png (by chromium), data/results.csv and the README's table, from what `sslsim run` left in REPORTS.
"""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from sslsim import read_lineup
from sslsim.comparison.tables import same_depth
from sslsim.resources import DATA

README = DATA.parent / "README.md"
RESULTS = DATA / "results.csv"
BEGIN, END = "<!-- results: python data/recipe/overview.py reports -->\n", "<!-- end of results -->"
ROWS = {
    "max_corr": "best single neuron (`max_corr`)",
    "linreg": "all neurons together (`linreg`)",
    "linear_cka_debiased": "geometry (`linear_cka_debiased`)",
    "pearson": "attention (`pearson`)",
    "linreg_r2": "variance beyond chance: by all neurons",
    "neuron_excess": "by single neurons (`neuron_excess`)",
    "neuron_count": "neurons with a partner (`neuron_count`)",
}
SCORES = {"neurons": ["max_corr", "linreg"], "layers": ["linear_cka_debiased"], "attention": ["pearson"]}
BASELINES = ("untrained", "spectrogram")
FAMILIES = ("hubert", "wav2vec2")
COLUMNS = {"other seed": "other seed", "same family": "same family", "other family": "other family"}
COLUMNS |= {"untrained": "random weights"}


def draw(reports: Path) -> None:
    """Write data/page.png: the first screen of the page on neurons, in few colours."""
    shot, page = DATA / "page.png", (reports / "neurons.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,1000", f"--screenshot={shot}"]
    subprocess.run(["chromium", *options, page], check=True, stderr=subprocess.DEVNULL)
    with Image.open(shot) as picture:
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(shot, optimize=True)


def results(reports: Path) -> pd.DataFrame:
    """Return what the README says: measure, relation, value, low, high (ends of the interval, of claims only)."""
    grids = []
    for notebook, measures in SCORES.items():
        grid = pd.read_parquet(reports / "tables" / f"{notebook}-pairs.parquet")
        grids.append(grid[grid.measure.isin(measures)])
    table = pd.concat(grids, ignore_index=True)
    pretrained = [c.name for c in read_lineup(DATA / "lineup.toml") if not c.finetuned_from]
    table = table[table.model_x.isin(pretrained) & table.model_y.isin(pretrained) & (table.trained_x | table.trained_y)]
    table = table[same_depth(table) & table.relation.isin(COLUMNS)]
    means = table.groupby(["measure", "relation"], sort=False).value.mean().reset_index()
    claims = pd.concat(
        [pd.read_parquet(reports / "tables" / f"{name}-claims.parquet") for name in ("neurons", "layers")]
    )
    claims = claims[claims.measure.isin(ROWS) & ~claims.claim.str.contains("alike than with|are alike|differs")]
    claims = claims.rename(columns={"between": "relation", "effect": "value"})
    claims = claims.rename(columns={"ci_low": "low", "ci_high": "high"})
    counts = pd.read_parquet(reports / "tables" / "neurons-evidence.parquet").query("measure == 'neuron_count'")
    counts = counts[same_depth(counts) & (counts.trained_x | counts.trained_y) & counts.relation.isin(BASELINES)]
    counts = counts.groupby(["measure", "relation"]).value.mean().reset_index()
    changed = pd.read_parquet(reports / "tables" / "finetuning-by-layer.parquet").query("measure == 'neuron_count'")
    ends = changed[changed.depth.isin([0, 1])].assign(relation=lambda t: "finetuned " + t.pretrained)
    ends["relation"] += ends.depth.map({0: " first", 1: " last"})
    every = pd.concat([means, claims, counts.assign(relation="with " + counts.relation), ends])
    return every[["measure", "relation", "value", "low", "high"]].reset_index(drop=True)


def markdown(table: pd.DataFrame) -> str:
    """Return the README's table."""
    known = table.set_index(["measure", "relation"])
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for measure, words in ROWS.items():
        keys = [(measure, relation) for relation in COLUMNS]
        row = [_text(known.loc[key]) if key in known.index else "" for key in keys]
        lines.append(f"| {' | '.join([words, *row])} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def sentence(table: pd.DataFrame) -> str:
    """Return what the README says of neurons and families: across models, of each family, and after finetuning."""
    known = table.set_index(["measure", "relation"])[["value", "low", "high"]]
    kept, form = 100 * known.loc["neuron_count"], "{:+z.1f} ({:+z.1f} to {:+z.1f})"
    apart = kept.value[[name for name in COLUMNS if name in kept.index]]
    own = [form.format(*kept.loc[name]) for name in FAMILIES]
    geometry = [f"{known.value['linear_cka_debiased', name]:+z.2f}" for name in FAMILIES]
    without = ["{:.1f} %".format(kept.value[f"with {name}"]) for name in BASELINES]
    models = [name.removeprefix("finetuned ")[:-6] for name in kept.index if name.endswith(" first")]
    after = [
        "{:.0f} to {:.0f} % in {}".format(*(kept.value[f"finetuned {name} {end}"] for end in ("first", "last")), name)
        for name in models
    ]
    return (
        f"{apart.min():.1f} to {apart.max():.1f} % of them have a partner in another model (with random weights "
        f"{without[0]}, in the spectrogram {without[1]}). Against pairs of two families that share differs by {own[0]} "
        f"percentage points in pairs of HuBERT models and {own[1]} in pairs of wav2vec 2.0 ones, the geometry by "
        f"{geometry[0]} and {geometry[1]}. After finetuning, from first to last layer, {', '.join(after)} keep one."
    )


def _text(row: pd.Series) -> str:
    return f"{row.value:.2f}" if pd.isna(row.low) else f"{row.value:.3f} ({row.low:.3f}-{row.high:.3f})"


def main(reports: Path) -> None:
    """Write figure, CSV and table."""
    draw(reports)
    results(reports).to_csv(RESULTS, index=False, float_format="%.6f")
    text = README.read_text(encoding="utf-8")
    known = pd.read_csv(RESULTS)
    table = BEGIN + markdown(known) + END
    print(sentence(known))
    README.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports"))
