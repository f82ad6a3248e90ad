"""Claims and intervals on made worlds, whose truth is known: how often they are right.

python tests/benchmarks/worlds.py              200 worlds a kind, to worlds.md beside this file
python tests/benchmarks/worlds.py --power      how much speech a weak effect needs, to power.csv and power.png
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1]))

from worlds import FASTEST, KINDS, MEASURED, OUTLIER, SLOWEST, World, evidence_of

from sslsim.analysis import best_layers, layer_claims, neuron_claims
from sslsim.measures.diagnostics import concentration
from sslsim.measures.moments import moments, squared_norms
from sslsim.measures.registry import MEASURES
from sslsim.significance.evidence import Estimate, Evidence, Resampling
from sslsim.significance.jackknife import LEVEL
from sslsim.significance.nulls import ALPHA

RESULTS = Path(__file__).with_name("worlds.md")
NAMES = [*MEASURED, "svcca_raw", "linear_cka_debiased_raw"]
MIXTURES = 10  # models among which the worlds of a kind are divided where scores are held against other speech
OTHER_SPEECH = 100  # times that other speech is made for each, whose mean score is the truth
ROUNDING = 1e-6  # an interval of a score of 1 has no width
VOICES = [(speakers, 0.5) for speakers in (20, 5)]  # speakers, deviation of their offsets
AMOUNTS = {60: (10, 20, 40, 80, 160), 250: (10, 20, 40, 80)}  # frames of an utterance: utterances
FAINT = 0.3  # correlation of what is shared
SUBSPACE, NEURONS = "linreg_r2", "neurons_shared"  # measures of the two claims whose truth is known
SHOULD = {
    "independent": "nothing",
    "permuted": "subspace and neurons",
    "rotated": "the subspace, not the neurons",
    "half": "half of the subspace, not the neurons",
    "tenth": "a tenth of the neurons and of the subspace",
}
EFFECTS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("nothing", (SUBSPACE, NEURONS), {"kind": "independent"}),
    *(
        (f"{100 * share:g} % at r = {FAINT:g}", (measure,), {"kind": kind, "shared": share, "noise": 1 - FAINT**2})
        for share in (0.05, 0.1, 0.2)
        for measure, kind in ((SUBSPACE, "half"), (NEURONS, "tenth"))
    ),
]
PLACES = ["model_x", "layer_x", "model_y", "layer_y"]
Rows = list[dict[str, Any]]


def single() -> None:
    torch.set_num_threads(1)


def over_all(job: Callable[..., Rows], calls: Sequence[tuple[Any, ...]], workers: int, title: str) -> pd.DataFrame:
    """Run a job in worker processes of one thread each."""
    start, rows = time.perf_counter(), []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=single) as pool:
        for done, found in enumerate(pool.map(job, *zip(*calls, strict=True), chunksize=4), 1):
            rows += found
            if done % max(1, len(calls) // 5) == 0:
                print(f"{title}: {done} of {len(calls)}, {time.perf_counter() - start:.0f} s", flush=True)
    return pd.DataFrame(rows)


def rate(hits: Iterable[bool]) -> tuple[float, float, float]:
    """Share of hits and its exact 95 % interval."""
    hits = np.asarray(list(hits), dtype=bool)
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL)
    return float(hits.mean()), float(ends.low), float(ends.high)


def covered(table: pd.DataFrame) -> pd.Series:
    return (table.low - ROUNDING <= table.truth) & (table.truth <= table.high + ROUNDING)


# claims


def claimed(world: World, label: str) -> Rows:
    """Return what is claimed of a world, and the best layers."""
    evidence = evidence_of(world, NAMES)
    truth = {SUBSPACE: world.share, NEURONS: world.partners(world.evidence_seed)}
    rows: Rows = []
    for row in pd.concat([neuron_claims(evidence), layer_claims(evidence)]).itertuples():
        effect = {"effect": row.effect, "low": row.ci_low, "high": row.ci_high, "truth": truth.get(row.measure)}
        rows.append(effect | {"claim": f"{row.claim}, {row.measure}", "measure": row.measure, "p": row.p})
        rows[-1]["holds"] = row.holds == "yes"
    for measure in ("svcca", "linear_cka_debiased"):
        best = best_layers(evidence, measure).iloc[0]
        rows.append({"claim": f"the best layers are alike, {measure}", "p": best.p, "holds": best.p <= ALPHA})
    return [{"world": label} | row for row in rows]


# scores on other speech


def numbers(values: dict[tuple[str, int, str, int], float]) -> dict[str, float]:
    """Return one pair of layers, the mean of layers at one depth, and a difference of two pairs that share a layer."""
    pair = values["x", 0, "y", 0]
    mean = np.mean([values[a, layer, b, layer] for a, b in ("xy", "yx") for layer in (0, 1)])
    return {"pair": pair, "mean": float(mean), "difference": pair - values["x", 0, "y", 1]}


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Return the numbers of `numbers` with their intervals."""
    keys = list(evidence.pairs[PLACES].itertuples(index=False, name=None))

    def of(name: str) -> Callable[[np.ndarray], np.ndarray]:
        def one(row: np.ndarray) -> float:
            return numbers(dict(zip(keys, row, strict=True)))[name]

        return lambda values: np.apply_along_axis(one, -1, values) if values.size else np.empty(values.shape[:-1])

    return {name: evidence.estimate(of(name)) for name in ("pair", "mean", "difference")}


def of_other_speech(world: World, draws: Sequence[int]) -> Rows:
    """Return the scores of the same models on other speech."""
    rows: Rows = []
    for draw in draws:
        sides = replace(world, draw=draw).activations()
        values: dict[str, dict[tuple[str, int, str, int], float]] = {name: {} for name in NAMES}
        for i, j in ((0, 0), (1, 1), (0, 1)):
            x, y = sides[i][0], sides[j][1]
            m = moments(x, y)
            for name in NAMES:
                measure = MEASURES[name]
                norms = [squared_norms(a, b, standardize=measure.standardize)[0] for a, b in ((x, m.x), (y, m.y))]
                norms = norms if measure.norms else []
                values[name]["x", i, "y", j] = measure.score(m, *norms)
                if i == j:
                    other = m if measure.symmetric else m.swapped
                    values[name]["y", j, "x", i] = measure.score(other, *reversed(norms))
        for name, found in values.items():
            rows += [known(world) | {"measure": name, "of": of, "value": v} for of, v in numbers(found).items()]
    return rows


def known(world: World) -> dict[str, Any]:
    return {"kind": world.kind, "speakers": world.speakers, "offset": world.offset, "seed": world.seed}


def intervals(world: World, block_by: Sequence[str]) -> Rows:
    """Return the intervals of scores of a world, to be held against other speech."""
    rows: Rows = []
    for together in block_by:
        evidence = evidence_of(world, NAMES, permutations=0, rotations=0, block_by=together)
        for name in NAMES:
            some = evidence.only(evidence.pairs.measure == name)
            for of, e in estimates(some).items():
                row = {"measure": name, "of": of, "interval": f"leaving out blocks by {together}"}
                rows.append(row | {"value": e.value, "low": e.low, "high": e.high})
    return [known(world) | row for row in rows]


# a neuron of another scale


def with_outlier(kind: str, seed: int) -> Rows:
    """Return how far a neuron at 30 times the scale moves what is found."""
    worlds = [World(kind, seed, outlier=outlier) for outlier in (False, True)]
    plain, large = (evidence_of(world, NAMES) for world in worlds)
    scaled = ~plain.pairs.measure.str.endswith("_raw").to_numpy()
    arrays = [(e.pairs.value.to_numpy(), e.null, e.left_out, np.nan_to_num(e.rotated)) for e in (plain, large)]
    row: dict[str, Any] = {"world": kind}
    row["moved"] = max(np.nanmax(np.abs(a[..., scaled] - b[..., scaled])) for a, b in zip(*arrays, strict=True))
    both = [pd.concat([neuron_claims(e), layer_claims(e)], ignore_index=True) for e in (plain, large)]
    raw = both[0].claim.str.startswith("raw")
    row["changed"] = int((both[0].holds != both[1].holds)[~raw].sum())
    for label, evidence, claims, world in zip(("", ", outlier"), (plain, large), both, worlds, strict=True):
        pairs = evidence.pairs
        for name in ("linear_cka_debiased_raw", "svcca_raw"):
            rows = (pairs.measure == name) & (pairs.layer_x == pairs.layer_y) & (pairs.model_x != pairs.model_y)
            row[name + label] = evidence.only(rows).estimate().value
        row[f"raw as standardised{label}"] = bool((claims.holds[raw] == "yes").all())
        layers = [layer for pair in world.activations() for layer in pair]
        row[f"dominated{label}"] = np.mean([concentration(x, moments(x, x).x).dominated for x in layers])
    return [row]


# how much speech


def powered(effect: int, utterances: int, frames: int, seed: int) -> Rows:
    """Return what is found of a weak effect in so much speech."""
    name, measures, options = EFFECTS[effect]
    world = World(seed=seed, neurons=40, layers=1, utterances=utterances, frames=frames, **options)
    claims = neuron_claims(evidence_of(world, MEASURED[:2])).set_index("measure")
    row = {"kind": name, "utterances": utterances, "each": frames, "frames": int(world.lengths.sum())}
    return [row | {"claim": claims.claim[m], "found": claims.holds[m] == "yes"} for m in measures]


def power(count: int, workers: int, out: Path) -> None:
    """Write how often weak effects are found."""
    calls = [
        (effect, utterances, frames, seed)
        for effect in range(len(EFFECTS))
        for frames, amounts in AMOUNTS.items()
        for utterances in amounts
        for seed in range(count)
    ]
    found = over_all(powered, calls, workers, "power")
    found["claim"] += found.each.map({frames: f" (utterances of {frames / 50:g} s)" for frames in AMOUNTS})
    rows = []
    for (claim, kind, utterances), group in found.groupby(["claim", "kind", "utterances"], sort=False):
        row = {"claim": claim, "kind": kind, "utterances": utterances, "frames": round(group.frames.mean())}
        rows.append(row | dict(zip(("power", "low", "high"), rate(group.found), strict=True)))
    table = pd.DataFrame(rows).sort_values("claim", kind="stable")
    table.to_csv(out / "power.csv", index=False, float_format="%.4f")
    draw_power(table, out / "power.png")


def draw_power(table: pd.DataFrame, path: Path) -> None:
    """Draw how often a claim holds against the amount of speech: a panel a claim, a line a kind of effect."""
    import seaborn as sns

    look = {"kind": "line", "col_wrap": 2, "height": 3.4, "aspect": 1.4, "palette": "colorblind", "markers": True}
    grid = sns.relplot(
        table, x="utterances", y="power", hue="kind", style="kind", col="claim", **look, dashes=False, errorbar=None
    )
    colours = dict(zip(table.kind.unique(), sns.color_palette("colorblind"), strict=False))
    for claim, ax in grid.axes_dict.items():
        for kind, rows in table[table.claim == claim].groupby("kind", sort=False):
            ax.fill_between(rows.utterances, rows.low, rows.high, color=colours[kind], alpha=0.2, linewidth=0)
        for level in (ALPHA, 0.8):  # what no effect should reach, and what is usually asked of an effect
            ax.axhline(level, color="0.7", linewidth=1.0, zorder=0)
        amounts = sorted(table.utterances.unique())
        ax.set(xscale="log", xticks=amounts, xticklabels=amounts, ylim=(-0.02, 1.02))
        ax.minorticks_off()
    grid.set_titles("{col_name}", size=10).set_ylabels("share of trials in which the claim holds")
    grid.savefig(path, dpi=150)


# tables


def markdown(rows: Rows) -> str:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = [heads, ["---"] * len(heads), *([str(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def with_ends(hits: Iterable[bool]) -> str:
    share, low, high = rate(hits)
    return f"{percent(share)} ({100 * low:.1f} to {100 * high:.1f})"


def main_table(found: pd.DataFrame) -> str:
    rows = []
    for world, group in found.groupby("world", sort=False):
        both = {name: group[group.measure == m] for name, m in (("subspace", SUBSPACE), ("neurons", NEURONS))}
        means = {name: (one.effect.mean(), one.truth.astype(float).mean()) for name, one in both.items()}
        row = {"world": world, "what should be found": SHOULD[world.split(",")[0]]}
        row["found, of worlds"] = "; ".join(f"{name} {with_ends(one.holds)}" for name, one in both.items())
        row["effect found against true"] = "; ".join(
            f"{name} {a:.3f} against {b:.3f}" for name, (a, b) in means.items()
        )
        row["coverage at 95 %"] = "; ".join(f"{name} {with_ends(covered(one))}" for name, one in both.items())
        rows.append(row)
    return markdown(rows)


def rates_table(found: pd.DataFrame) -> str:
    rows = []
    for (world, claim), group in found[found.p.notna()].groupby(["world", "claim"], sort=False):
        if not claim.startswith("raw"):
            row = {"world": world, "claim": claim, "holds": with_ends(group.holds)}
            rows.append(row | {f"p <= {c:g}": with_ends(group.p <= c) for c in (ALPHA, 0.5)})
    return markdown(rows)


def coverage_table(found: pd.DataFrame, by: str, columns: Sequence[str]) -> str:
    rows = []
    for (world, measure), group in found.groupby([by, "measure"], sort=False):
        row: dict[str, Any] = {by: world, "score": measure}
        row |= {", ".join(key): with_ends(covered(one)) for key, one in group.groupby(list(columns), sort=False)}
        rows.append(row)
    return markdown(rows)


def outlier_table(found: pd.DataFrame) -> str:
    rows = []
    for world, group in found.groupby("world", sort=False):
        row = {"world": world, "worlds": len(group), "largest move of a standardised score": f"{group.moved.max():.0e}"}
        row["standardised claims changed"] = int(group.changed.sum())
        for name in ("linear_cka_debiased_raw", "svcca_raw"):
            row[name] = " to ".join(f"{group[name + label].mean():.3f}" for label in ("", ", outlier"))
        for name, words in (
            ("raw as standardised", "raw CKA said to be as standardised"),
            ("dominated", "layers said to be dominated"),
        ):
            row[words] = " to ".join(percent(group[name + label].mean()) for label in ("", ", outlier"))
        rows.append(row)
    return markdown(rows)


def calibration(count: int, workers: int, out: Path) -> None:
    """Write how often claims and intervals are right."""
    few, mixtures = max(1, count // 4), min(MIXTURES, count)
    calls: list[tuple[Any, ...]] = [(World(kind, seed), kind) for kind in KINDS for seed in range(count)]
    # other seeds than the worlds without
    calls += [(World(kind, count + seed, outlier=True), f"{kind}, outlier") for kind in KINDS for seed in range(few)]
    for speakers, offset in VOICES:
        label = f"independent, {speakers} speakers"
        calls += [(World("independent", s, speakers=speakers, offset=offset), label) for s in range(max(1, count // 2))]
    claims = over_all(claimed, calls, workers, "claims")
    models = [World(kind, seed) for kind in KINDS for seed in range(mixtures)]
    voices = [
        World("half", seed, utterances=60, speakers=speakers, offset=offset)
        for speakers, offset in VOICES
        for seed in range(mixtures)
    ]
    other = [range(10_000 + first, 10_000 + first + 50) for first in range(0, OTHER_SPEECH, 50)]
    calls = [(world, draws) for world in (*models, *voices) for draws in other]
    keys = [*known(models[0]), "measure", "of"]
    truth = over_all(of_other_speech, calls, workers, "other speech").groupby(keys).value.mean().rename("truth")
    calls = [(replace(w, draw=n), ("utterance",)) for w in models for n in range(count // mixtures)]
    calls += [(replace(w, draw=n), ("utterance", "speaker")) for w in voices for n in range(count // mixtures)]
    ends = over_all(intervals, calls, workers, "intervals").join(truth, on=keys)
    moved = over_all(with_outlier, [(kind, seed) for kind in KINDS for seed in range(few)], workers, "outliers")
    text = report(count, few, mixtures, claims, ends, moved)
    (out / RESULTS.name).write_text(text, encoding="utf-8")
    print(text)


def report(count: int, few: int, mixtures: int, claims: pd.DataFrame, ends: pd.DataFrame, moved: pd.DataFrame) -> str:
    """Return worlds.md."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("sslsim", "numpy", "scipy", "torch", "pandas"))
    world, resampling = World(KINDS[0], 0), Resampling()
    k, floor = resampling.permutations, 100 / (resampling.permutations + 1)
    plain, spoken = ends[ends.offset == 0], ends[ends.offset > 0]
    spoken = spoken.assign(world="half, " + spoken.speakers.astype(str) + " speakers")
    of = {name: claims[claims.world.str.endswith(name)] for name in ("outlier", "speakers")}
    return f"""# Made worlds

Written by `python tests/benchmarks/worlds.py --worlds {count}`: {date.today()}, {packages}.

Two models of {world.layers} layers of {world.neurons} neurons on {world.utterances} utterances of {world.frames} frames
on average; correlation from one frame to the next {FASTEST:g} to {SLOWEST:g}. {k} permutations, {resampling.rotations}
rotations, {resampling.blocks} blocks. Seeds 0 to {count - 1} of each kind. In parentheses: exact 95 % intervals of the
rates.

## The five worlds

{main_table(claims[claims.world.isin(KINDS)])}

With one neuron of each layer at {OUTLIER:g} times the scale, seeds {count} to {count + few - 1}:

{main_table(of["outlier"])}

## Claims and their probabilities

Where there is nothing, p <= 0.05 should be seen in {floor:.1f} % of the worlds, p <= 0.5 in {k // 2 * floor:.1f} %.

{rates_table(claims[claims.world.isin(KINDS)])}

The same where neurons of both models respond to the speaker, each in its own way (offsets of {VOICES[0][1]:g}
deviations):

{rates_table(of["speakers"])}

## Intervals of scores

How often they contain the mean score on other speech of the same amount ({mixtures} pairs of models a kind, the speech
made {OTHER_SPEECH} times for each truth).

{coverage_table(plain, "kind", ["of"])}

The same with speakers who take turns at 60 utterances:

{coverage_table(spoken, "world", ["of", "interval"])}

## One neuron at {OUTLIER:g} times the scale

The same worlds without and with it.

{outlier_table(moved)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=None, help="of each kind; 200, and 60 for the power")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=RESULTS.parent, help="folder for tables and figure")
    parser.add_argument("--power", action="store_true", help="how much speech a weak effect needs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    (power if asked.power else calibration)(asked.worlds or (60 if asked.power else 200), asked.workers, asked.out)


if __name__ == "__main__":
    main()
