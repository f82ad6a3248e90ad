"""The figure of the data card: phone probe by layer."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

COLOURS = {"wav2vec2": "tab:blue", "hubert": "tab:orange"}


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Draw trained models, their untrained twin, and log mel as a level."""
    probe = [row for row in rows if row["measure"] == "phone_probe"]
    models = list(dict.fromkeys(r["model"] for r in probe if r["model"] != "log-mel"))
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), sharey=True, layout="constrained")
    for ax, size in zip(axes, ("small", "large"), strict=True):
        for model in (m for m in models if size in m):
            _line(ax, model, [row for row in probe if row["model"] == model])
        _twin(ax, [row for row in probe if row["model"] == f"hubert-{size}"])
        mel = next(row for row in probe if row["model"] == "log-mel")
        ax.axhline(float(mel["value"]), color="black", lw=1, ls="--", label="log mel, one frame")
        ax.axhline(float(mel["chance"]), color="grey", lw=1, ls=":", label="most frequent phone")
        ax.set(title=size, xlabel="layer (0: transformer input)", ylim=(0, None))
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    axes[0].set_ylabel("phone probe, frame accuracy")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _line(ax: plt.Axes, model: str, rows: list[dict[str, object]]) -> None:
    colour = COLOURS["hubert" if model.startswith("hubert") else "wav2vec2"]
    ax.plot(
        [int(row["layer"]) for row in rows],
        [float(row["value"]) for row in rows],
        color=colour,
        marker="o",
        ms=3,
        ls="-." if model.endswith("ctc") else ":" if model.endswith("-b") else "-",
        label=model,
    )


def _twin(ax: plt.Axes, rows: list[dict[str, object]]) -> None:
    """Draw the untrained twin; one serves both families, whose encoders are built alike."""
    ax.plot(
        [int(row["layer"]) for row in rows],
        [float(row["untrained"]) for row in rows],
        color="black",
        marker="x",
        ms=3,
        lw=1,
        label="untrained twin",
    )
