"""What other units, sites and rates, and arrays of one's own, change: python data/recipe/reach.py.

Runs the pages on neurons and layers in several ways, as `WAYS` says, writes data/reach.csv and a part of the
data card. The models of another rate and the arrays are made here, in data/build/reach: small models whose last
convolution moves twice as far, so that they have a frame every 40 ms and hear what they were not trained for, and codes
of a spectrogram (64 clusters) every 80 ms, as of a codec.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
from parts import write
from paths import BUILD, CHECKPOINTS, DATA
from scipy.cluster.vq import kmeans2

import sslsim
from sslsim.comparison.tables import same_depth
from sslsim.resources import write_text

OUT, RESULTS = BUILD / "reach", DATA / "reach.csv"
SMALL = ("w2v2-small", "w2v2-small-b", "hubert-small", "hubert-small-b", "untrained-small")
SLOW = ("w2v2-small", "hubert-small")  # of these there is one with frames of 40 ms
STEP, CODES = 0.08, 64  # seconds, of the arrays
SOME = ["--checkpoints", ",".join(SMALL)]
WAYS = {
    "frames": ("frames of 20 ms", SOME),
    "80ms": ("means over 80 ms", [*SOME, "--unit", "80ms"]),
    "phone": ("means over phones", [*SOME, "--unit", "phone"]),
    "word": ("means over words", [*SOME, "--unit", "word"]),
    "ffn": ("units of feed-forward layers", [*SOME, "--site", "ffn"]),
    "own": ("", ["--lineup", str(OUT / "lineup.toml"), "--unit", "80ms"]),
}
MEASURES = {"linreg_r2": "all neurons", "neuron_excess": "single neurons", "neuron_count": "neurons with a partner"}
BEST = ("max_corr", "max_corr_in_bases")
CKA = "linear_cka_debiased"
COLUMNS = {"linreg_r2": "all neurons", CKA: "geometry", "neuron_count": "neurons with a partner"}
MODEL, OTHERS = (
    "w2v2-small",
    {  # of the own lineup: what is compared with what, and how the card calls that
        "w2v2-small-b": "another seed",
        "w2v2-small-25": "itself, a frame every 40 ms",
        "hubert-small": "the other family",
        "hubert-small-25": "the other family, a frame every 40 ms",
        "codes": "codes every 80 ms",
        "log-mel": "the spectrogram",
        "untrained": "random weights",
    },
)


def spectra():
    """Return the spectrogram of each utterance as means over steps of 80 ms, (n, 80) standardised."""
    study = sslsim.Study(checkpoints=("log-mel",), frames=None, unit=f"{1000 * STEP:.0f}ms")
    (store,) = study.extract(OUT / "store")
    every, index = store.layer(0)[:], store.index
    every = (every - every.mean(0)) / every.std(0)
    return dict(zip(index.utterance, np.split(every, index.start[1:]), strict=True))


def make():
    """Write the lineup of models of 20 and of 40 ms and of arrays of 80 ms."""
    shutil.rmtree(OUT / "codes", ignore_errors=True)
    (OUT / "codes").mkdir(parents=True)
    found = spectra()
    _, labels = kmeans2(np.concatenate([*found.values()]), CODES, seed=0, minit="++")
    for utterance, codes in zip(found, np.split(labels, np.cumsum([len(x) for x in found.values()])[:-1]), strict=True):
        np.save(OUT / "codes" / f"{utterance}.npy", np.eye(CODES, dtype="f4")[codes])
    tables = [{"name": name, "source": str(CHECKPOINTS / name), "family": name.split("-")[0]} for name in SMALL[:4]]
    for name in SLOW:
        folder = OUT / f"{name}-25"
        shutil.copytree(CHECKPOINTS / name, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["conv_stride"][-1] *= 2
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tables.append({"name": folder.name, "source": folder.name, "family": name.split("-")[0]})
    tables.append({"name": "untrained", "source": str(CHECKPOINTS / SLOW[1]), "untrained_seed": 900})
    tables += [
        {"name": "codes", "source": "codes", "times": [STEP / 2, STEP]},
        {"name": "log-mel", "source": "log-mel"},
    ]
    lines = [[f"{key} = {json.dumps(value)}" for key, value in table.items()] for table in tables]
    write_text(OUT / "lineup.toml", "\n".join("\n".join(["[[checkpoint]]", *some, ""]) for some in lines))


def results():
    """Return the claims of each way, and of the own lineup the means over depths of what chance leaves."""
    rows = []
    for way in (way for way, (name, _) in WAYS.items() if name):
        claims = pd.read_parquet(OUT / way / "tables" / "neurons-claims.parquet")
        claims = claims[claims.measure.isin(MEASURES) & claims.between.isin(["other seed", "other family"])]
        claims = claims[~claims.claim.str.contains("alike than")].rename(columns={"between": "with"})
        rows.append(claims.assign(way=way)[["way", "measure", "with", "effect", "ci_low", "ci_high"]])
        scores = pd.read_parquet(OUT / way / "tables" / "neurons-evidence.parquet")
        scores = scores[same_depth(scores) & (scores.relation == "other seed") & scores.measure.isin(BEST)]
        scores = scores.groupby("measure").value.mean().rename("effect").reset_index()
        rows.append(scores.assign(way=way, **{"with": "other seed"}))
    table = pd.concat([pd.read_parquet(OUT / "own" / f"tables/{n}-evidence.parquet") for n in ("neurons", "layers")])
    table = table[same_depth(table) & (table.model_x == MODEL) & table.model_y.isin(OTHERS)]
    left = table.value - table.chance
    table = table.assign(effect=left.where(table.measure == CKA, left / (1 - table.chance)))
    means = table[table.measure.isin(COLUMNS)].groupby(["measure", "model_y"]).effect.mean().reset_index()
    rows.append(means.rename(columns={"model_y": "with"}).assign(way=MODEL))
    return pd.concat(rows, ignore_index=True)


def part(table):
    """Return the lines of the data card that say what comes out."""
    known = table.set_index(["way", "measure", "with"])
    head = [f"{name}, {between}" for name in MEASURES.values() for between in ("other seed", "other family")]
    lines = ["| beyond chance, 95 % intervals | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for way, (name, _) in WAYS.items():
        keys = [(way, measure, between) for measure in MEASURES for between in ("other seed", "other family")]
        cells = ["{effect:.3f} ({ci_low:.3f}-{ci_high:.3f})".format(**known.loc[key]) for key in keys if name]
        lines += [f"| {name} | {' | '.join(cells)} |"] if name else []
    lines += ["", f"| {MODEL} with | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for other, name in OTHERS.items():
        cells = [f"{known.effect.get((MODEL, measure, other), np.nan):.3f}" for measure in COLUMNS]
        lines.append(f"| {name} (`{other}`) | {' | '.join(cells)} |")
    best = {(way, measure): known.effect[way, measure, "other seed"] for way in ("frames", "ffn") for measure in BEST}
    hidden, ffn = ([best[way, measure] for measure in BEST] for way in ("frames", "ffn"))
    told = "A best partner correlates at {:.2f} in hidden states (other seed, same depth; in random bases at {:.2f})"
    told = told.format(*hidden) + ", and at {:.2f} in feed-forward layers ({:.2f}).".format(*ffn)
    return [*lines, "", told]


def main():
    """Make, run, and write."""
    make()
    for way, (_, arguments) in WAYS.items():
        pages = ["neurons", "layers"] if way == "own" else ["neurons"]
        call = [sys.executable, "-m", "sslsim", "run", *pages, "--store", str(OUT / "store"), "--out", str(OUT / way)]
        subprocess.run([*call, *arguments], check=True)
    results().to_csv(RESULTS, index=False, float_format="%.6f")
    write("reach", part(pd.read_csv(RESULTS)))


if __name__ == "__main__":
    main()
