"""Write the tables of the data card, data/README.md, from proof.csv and the training logs: `python card.py`."""

import csv
from collections.abc import Iterator

from corpus import CROP_FRAMES, Corpus
from fast import STRIDE
from lineup import RECIPES, SHIPPED
from parts import write
from paths import BUILD, DATA


def training() -> Iterator[str]:
    """Yield the table of trainings: settings, audio seen, time of one thread."""
    yield "| model | seed | starts from | labels | steps | batch | peak rate | warm-up | easing | hours heard | CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    frames = Corpus("train").frames.mean()
    for r in RECIPES.values():
        with open(BUILD / "runs" / r.name / "log.csv", newline="") as file:
            spent = float(list(csv.DictReader(file))[-1]["cpu_s"])
        hours = r.steps * r.batch * (frames if r.ctc else CROP_FRAMES) * STRIDE / 16_000 / 3600
        easing = f"{r.easing:,}" if r.family == "wav2vec2" and not r.ctc else "-"
        labels = "characters" if r.ctc else {"": "-", "mfcc": "MFCC"}.get(r.units, r.units)
        yield (
            f"| {r.name} | {r.seed} | {r.start or 'random weights'} | {labels} | {r.steps:,} | {r.batch} | {r.rate} "
            f"| {r.warmup} | {easing} | {hours:.1f} | {spent:,.0f} |"
        )


def tasks(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield the table of what the models were trained to do."""
    yield "| model | measure | value | chance | untrained twin | n |"
    yield "|---|---|---|---|---|---|"
    for r in (r for r in rows if not r["layer"]):
        digits = 1 if "perplexity" in r["measure"] else 3
        value, chance, twin = (f"{float(r[k]):.{digits}f}" if r[k] else "-" for k in ("value", "chance", "untrained"))
        yield f"| {r['model']} | {r['measure'].replace('_', ' ')} | {value} | {chance} | {twin} | {int(r['n']):,} |"


def layers(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield the table of what each layer holds: the phone probe, participation ratio and cost of float16."""
    yield "| model | phone probe, layer 0 to last | best | best of twin | participation ratio | float16 change |"
    yield "|---|---|---|---|---|---|"
    for model in dict.fromkeys(r["model"] for r in rows):

        def column(measure: str, kind: str = "value", model: str = model) -> list[float]:
            return [float(r[kind]) for r in rows if (r["model"], r["measure"]) == (model, measure) and r[kind]]

        probe, twin, change = column("phone_probe"), column("phone_probe", "untrained"), column("float16_change")
        yield (
            f"| {model} | {' '.join(f'{v:.3f}'[1:] for v in probe)} | {max(probe):.3f} "
            f"| {f'{max(twin):.3f}' if twin else '-'} | {' '.join(f'{v:.1f}' for v in column('participation_ratio'))} "
            f"| {f'{max(change):.1e}' if change else '-'} |"
        )


def main() -> None:
    """Fill in the three tables."""
    with open(DATA / "proof.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {*SHIPPED, "log-mel"} == {r["model"] for r in rows}
    for name, lines in (("training", training()), ("tasks", tasks(rows)), ("layers", layers(rows))):
        write(name, lines)


if __name__ == "__main__":
    main()
