"""Do claims hold on human speech? Lists of it, and of synthetic speech as narrow, and what became of the claims.

    python data/recipe/human.py                        writes data/build/human/{voices,narrow}.csv and what they name
    python data/recipe/human.py reports narrow human   reads three runs, writes data/human.csv and what the card says

Human speech are the prompts of a telephone exchange in Debian's packages asterisk-core-sounds-{en,es,fr,it,ru}-wav, 20
of each voice and as long as the embedded utterances.
"""

import csv
import json
import random
import sys
from pathlib import Path
from textwrap import wrap

import pandas as pd
import soundfile
import soxr
from parts import write
from paths import BUILD, DATA, SPEECH

CLAIMS = DATA / "human.csv"
RUNS = {"synthetic": "synthetic", "narrow": "synthetic, 8 kHz", "human": "human, 8 kHz"}
KEY = ["notebook", "claim", "between", "measure"]
SHOWN = {
    "linreg_r2": "all neurons (`linreg_r2`)",
    "neuron_excess": "single neurons (`neuron_excess`)",
    "neuron_count": "neurons with a partner (`neuron_count`)",
    "svcca": "layers (`svcca`)",
    "mutual_knn": "neighbours (`mutual_knn`)",
    "pearson": "heads (`pearson`)",
}

SOUNDS = Path("/usr/share/asterisk/sounds")
SHORTEST, LONGEST, EACH, RATE = 2.9, 6.5, 20, 8_000


def prompts():
    """Yield id, path and speaker of utterances drawn from each voice."""
    for voice in sorted(path for path in SOUNDS.iterdir() if path.is_dir() and path.name != "custom"):
        spoken = [path for path in sorted(voice.rglob("*.wav")) if "silence" not in path.parts]
        fitting = [path for path in spoken if SHORTEST <= soundfile.info(path).duration <= LONGEST]
        for path in sorted(random.Random(0).sample(fitting, EACH)):
            yield path.relative_to(SOUNDS).with_suffix("").as_posix(), path, voice.name


def narrow():
    """Yield id, path and speaker of the embedded utterances, written with the bandwidth of a telephone."""
    for row in csv.DictReader((SPEECH / "manifest.csv").open(encoding="utf-8")):
        samples, rate = soundfile.read(SPEECH / row["path"], dtype="float32")
        path = BUILD / "human" / "narrow" / f"{row['id']}.wav"
        soundfile.write(path, soxr.resample(samples, rate, RATE), RATE, subtype="PCM_16")
        yield row["id"], path, row["speaker"]


def lists():
    """Write the lists and the sounds that they name."""
    (BUILD / "human" / "narrow").mkdir(parents=True, exist_ok=True)
    for name, rows in {"voices": prompts(), "narrow": narrow()}.items():
        with (BUILD / "human" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "path", "speaker"), *rows])


def claims(folders):
    """Return the claims of runs, those that all have: effect, ci_low, ci_high and verdict of each run."""
    tables = []
    for name, folder in zip(RUNS, folders, strict=True):
        notebooks = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))["notebooks"]
        rows = [{"notebook": n, **claim} for n, entry in notebooks.items() for claim in entry["claims"]]
        table = pd.DataFrame(rows).dropna(subset="effect").set_index(KEY)[["effect", "ci_low", "ci_high", "verdict"]]
        tables.append(table.add_suffix(f" {name}"))
    return pd.concat(tables, axis=1, join="inner").reset_index()


def part(table):
    """Return the lines of the data card that say what became of the claims."""
    effect = {name: table[f"effect {name}"] for name in RUNS}
    off = {name: (effect[name] / effect["synthetic"] - 1).abs().median() for name in RUNS}
    same = {
        "words": (table["verdict human"] == table["verdict synthetic"]).sum(),
        "signs": (effect["human"] * effect["synthetic"] > 0).sum(),
        "within": effect["human"].between(table["ci_low synthetic"], table["ci_high synthetic"]).sum(),
    }
    told = (
        f"Of {len(table)} claims of the {table.notebook.nunique()} pages, {same['words']} get the same word for their "
        f"size on human speech as on the embedded speech, and {same['signs']} have the same sign. Sizes do differ: "
        f"effects on human speech are {100 * off['human']:.0f} % (median) away from the embedded ones, and "
        f"{len(table) - same['within']} lie outside their intervals, which are for more speech of the same kind. "
        f"Bandwidth matters less: on the embedded speech at 8 kHz effects are {100 * off['narrow']:.0f} % away."
    )
    lines = ["| beyond chance, 95 % intervals | between | " + " | ".join(RUNS.values()) + " |", "|---" * 5 + "|"]
    for measure, name in SHOWN.items():
        for between in ("other seed", "other family"):
            some = table[(table.measure == measure) & (table.between == between)]
            row = some[~some.claim.str.contains("alike than")].iloc[0]
            numbers = [[row[f"{column} {run}"] for column in ("effect", "ci_low", "ci_high")] for run in RUNS]
            cells = ["{:.3f} ({:.3f}-{:.3f})".format(*three) for three in numbers]
            lines.append(f"| {name} | {between} | {' | '.join(cells)} |")
    return [*wrap(told, 118), "", *lines]


def main(folders):
    """Write lists, or the part of the data card."""
    if not folders:
        lists()
        return
    claims(folders).to_csv(CLAIMS, index=False, float_format="%.6f")
    write("human", part(pd.read_csv(CLAIMS)))


if __name__ == "__main__":
    main(sys.argv[1:])
