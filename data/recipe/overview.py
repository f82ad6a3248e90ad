"""Draw the README's figure from the tables that `make report` left: python data/recipe/overview.py [reports]."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from sslsim import DATA, plots

PANELS = {"neurons": ["max_corr", "linreg"], "layers": ["linear_cka_debiased"]}


def main(reports: Path) -> None:
    """Write data/overview.png: one heatmap a measure, side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(17.5, 5.4), layout="constrained")
    drawn = iter(axes)
    for notebook, measures in PANELS.items():
        table = pd.read_parquet(reports / "tables" / f"{notebook}-pairs.parquet")
        for measure in measures:
            plots.heatmap(table, measure, ax=next(drawn))
    figure.savefig(DATA / "overview.png", dpi=80, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports"))
