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
FINETUNED, LAYERS = ("w2v2-small", "hubert-small"), (1, 4)
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
    claims = pd.read_parquet(reports / "tables" / "neurons-claims.parquet")
    claims = claims[claims.measure.isin(ROWS) & ~claims.claim.str.startswith("more ")].rename(
        columns={"between": "relation", "effect": "value"}
    )
    claims = claims.rename(columns={"ci_low": "low", "ci_high": "high"})
    changed = pd.read_parquet(reports / "tables" / "finetuning-by-layer.parquet")
    changed = changed[
        (changed.measure == "neuron_count") & changed.pretrained.isin(FINETUNED) & changed.layer.isin(LAYERS)
    ]
    of = changed.pretrained + " " + changed.layer.astype(str)
    seeds = changed.assign(relation="another seed of " + of, value=changed.other_seed)
    every = pd.concat([means, claims, changed.assign(relation="finetuned " + of), seeds])
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
    """Return what the README says of neurons: across models, of each family, and in finetuning layer by layer."""
    kept = 100 * table[table.measure == "neuron_count"].set_index("relation")[["value", "low", "high"]]
    apart = kept.value[[name for name in COLUMNS if name in kept.index]]
    own = ["{:+z.1f} points ({:+z.1f} to {:+z.1f})".format(*kept.loc[name]) for name in FAMILIES]
    whose = [f"{what} {name}" for name in FINETUNED for what in ("finetuned", "another seed of")]
    after = ["{:.0f} % and {:.0f} %".format(*(kept.value[f"{what} {layer}"] for layer in LAYERS)) for what in whose]
    return (
        f"{apart.min():.1f} to {apart.max():.1f} % of them have a partner in another model. Against pairs of two "
        f"families that share differs by {own[0]} in pairs of HuBERT models and {own[1]} in pairs of wav2vec 2.0 ones. "
        f"Finetuning keeps more neurons, and fewer towards the top: in layers 1 and 4 of w2v2-small {after[0]} have a "
        f"partner after it (in another seed {after[1]}), of hubert-small {after[2]} ({after[3]})."
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
