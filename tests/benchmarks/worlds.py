"""Verdicts and intervals on made worlds, whose truth is known: how often they are right.

python tests/benchmarks/worlds.py              200 worlds a kind, to worlds.md and worlds.csv beside this file
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

from sslsim.analysis import claims as verdicts
from sslsim.analysis import partners as findings
from sslsim.measures.moments import Moments, marginal, moments, squared_norms
from sslsim.measures.products import Means, Side, Utterances, cross_products
from sslsim.measures.registry import MEASURES
from sslsim.significance import jackknife as controls
from sslsim.significance.jackknife import ALPHA, LEVEL
from sslsim.significance.run import DRAWS, GROUPS, Evidence, Reading

RESULTS = Path(__file__).with_name("worlds.md")
BOOTSTRAPPED = ("max_corr", "linreg_r2", "svcca")  # functions of moments alone
VALUES = [(name, True) for name in MEASURED] + [("svcca", False), ("linear_cka_debiased", False)]
MIXTURES = 10  # models among which the worlds of a kind are divided where scores are held against other speech
OTHER_SPEECH = 100  # draws of other speech of each, whose mean score is the truth
ROUNDING = 1e-6  # an interval of a score of 1 has no width
SUBSPACE, PARTNERS = "the subspace is shared", "neurons have partners of their own"
VOICES = [(speakers, 0.5) for speakers in (20, 5)]  # speakers, deviation of their offsets
AMOUNTS = {60: (10, 20, 40, 80, 160), 250: (10, 20, 40, 80)}  # frames of an utterance: utterances
FAINT = 0.3  # correlation of what is shared
EFFECTS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("nothing", (SUBSPACE, PARTNERS), {"kind": "independent"}),
    *(
        (f"{100 * share:g} % at r = {FAINT:g}", (claim,), {"kind": kind, "shared": share, "noise": 1 - FAINT**2})
        for share in (0.05, 0.1, 0.2)
        for claim, kind in ((SUBSPACE, "half"), (PARTNERS, "tenth"))
    ),
]
Rows = list[dict[str, Any]]


def single() -> None:
    torch.set_num_threads(1)


def over_all(job: Callable[..., Rows], jobs: Sequence[tuple[Any, ...]], workers: int, title: str) -> pd.DataFrame:
    """Run a job in worker processes of one thread each."""
    start, rows = time.perf_counter(), []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=single) as pool:
        for done, found in enumerate(pool.map(job, *zip(*jobs, strict=True), chunksize=4), 1):
            rows += found
            if done % max(1, len(jobs) // 5) == 0:
                taken = time.perf_counter() - start
                print(f"{title}: {done} of {len(jobs)}, {taken:.0f} s", flush=True)
    return pd.DataFrame(rows)


def rate(hits: Iterable[bool]) -> tuple[float, float, float]:
    """Share of hits and its exact 95 % interval."""
    hits = np.asarray(list(hits), dtype=bool)
    if not len(hits):
        return np.nan, np.nan, np.nan
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL)
    return float(hits.mean()), float(ends.low), float(ends.high)


def covered(table: pd.DataFrame) -> pd.Series:
    return (table.low - ROUNDING <= table.truth) & (table.truth <= table.high + ROUNDING)


# verdicts


def judged(world: World, label: str) -> Rows:
    """Return what the verdicts say of a world, and the probabilities that they are made of."""
    found, models = evidence_of(world, standardize=[True, False])
    truth = {SUBSPACE: world.share, PARTNERS: world.partners(world.evidence_seed)}
    rows: Rows = []
    for row in pd.concat([verdicts.neurons(found, models), verdicts.layers(found, models)]).itertuples():
        rows.append(
            {"what": row.claim if row.claim in truth else f"{row.claim}, {row.measure}", "truth": truth.get(row.claim)}
            | {"effect": row.effect, "low": row.ci_low, "high": row.ci_high, "p": row.p, "holds": row.holds == "yes"}
        )
    # the same interval against what the kind of world says, whatever axes this one has
    named = {**rows[1], "what": f"{PARTNERS}, against the share named", "truth": world.n_shared / world.neurons}
    rows.append(named | {"truth": 0.0 if world.kind in ("rotated", "half") else named["truth"]})
    for measure in ("svcca", "linear_cka_debiased"):
        best = findings.best_layers(found, models, measure).iloc[0]
        row = {"what": f"the best layers are alike, {measure}", "p": best.p, "holds": best.p <= ALPHA}
        rows.append(row | {"effect": best.value - best.chance, "truth": None})
    cells = found.cells
    aligned = (cells.model_x != cells.model_y) & (cells.layer_x == cells.layer_y) & (cells.measure == "neurons_shared")
    halves = [found.only(aligned & (cells.model_x == side)).reading() for side in "xy"]
    parts = {"mismatches": found.only(aligned).reading().p}
    parts |= {f"random bases of {side}": half.p_rotation for side, half in zip("yx", halves, strict=True)}
    rows += [{"what": f"{PARTNERS}: {name}", "p": p, "holds": p <= ALPHA} for name, p in parts.items()]
    return [{"world": label, "seed": world.seed} | row for row in rows]


# scores on other speech


def grouped(x: np.ndarray, y: np.ndarray, lengths: np.ndarray, groups: int) -> Moments:
    """Moments with so many groups of utterances."""
    known = Utterances(tuple(map(int, lengths)), groups)
    means = [Means.of(side, known) for side in (x, y)]
    (own_x, cross), (own_y,) = cross_products(Side([x, y], means, torch.float32), None, len(x), known)
    eps = torch.finfo(torch.float32).eps
    sides = [marginal(mean, own, len(x), eps) for mean, own in zip(means, (own_x, own_y), strict=True)]
    return Moments.of(*sides, cross)


def readings(values: dict[tuple[str, int, str, int], float]) -> dict[str, float]:
    """Read one cell, the mean of layers at one depth, and a difference of two cells that share a layer."""
    cell = values["x", 0, "y", 0]
    mean = np.mean([values[a, layer, b, layer] for a, b in ("xy", "yx") for layer in (0, 1)])
    return {"cell": cell, "mean": float(mean), "difference": cell - values["x", 0, "y", 1]}


def of_other_speech(world: World, draws: Sequence[int]) -> Rows:
    """Return the scores of the same models on other speech."""
    rows: Rows = []
    for draw in draws:
        sides = replace(world, draw=draw).activations()
        values: dict[tuple[str, bool], dict[tuple[str, int, str, int], float]] = {key: {} for key in VALUES}
        for i, j in ((0, 0), (1, 1), (0, 1)):
            x, y = sides[i][0], sides[j][1]
            m = moments(x, y)
            for name, scaled in VALUES:
                measure, options = MEASURES[name], {"standardize": scaled} if MEASURES[name].scaling else {}
                norms = [squared_norms(a, b, standardize=scaled)[0] for a, b in ((x, m.x), (y, m.y))]
                norms = norms if measure.norms else []
                values[name, scaled]["x", i, "y", j] = measure.score(m, *norms, **options)
                if i == j:
                    other = m if measure.symmetric else m.swapped
                    values[name, scaled]["y", j, "x", i] = measure.score(other, *reversed(norms), **options)
        for (name, scaled), found in values.items():
            rows += [
                {"seed": world.seed, "speakers": world.speakers, "kind": world.kind, "offset": world.offset}
                | {"measure": name, "standardize": scaled, "of": of, "value": value}
                for of, value in readings(found).items()
            ]
    return rows


def intervals(world: World, units: Sequence[str], bootstrap: bool) -> Rows:
    """Return the intervals of scores of a world, to be held against other speech."""
    rows: Rows = []
    for unit in units:
        found, _ = evidence_of(world, standardize=[True, False], draws=0, unit=unit)
        for name, scaled in VALUES:
            some = found.only((found.cells.measure == name) & (found.cells.standardize == scaled))
            for of, reading in read(some).items():
                row = {"measure": name, "standardize": scaled, "of": of, "interval": f"jackknife, {unit}"}
                rows.append(row | {"value": reading.value, "low": reading.low, "high": reading.high})
            if unit == "utterance" and (name, scaled) in VALUES[:3] and not world.offset:
                keys = ["model_x", "layer_x", "model_y", "layer_y"]
                place = int(np.flatnonzero((some.cells[keys] == ["x", 0, "y", 0]).all(axis=1))[0])
                value = some.cells.value.iloc[place]
                ends = controls.jackknife_interval(value, some.left_out[:, place], some.sizes, correct=True)
                row = {
                    "measure": name,
                    "standardize": scaled,
                    "of": "cell",
                    "interval": "corrected jackknife, endless speech",
                }
                rows.append(row | {"value": value, "low": ends[0], "high": ends[1], "truth": world.truth(name, 0)})
    if bootstrap:
        x, y = world.activations()[0]
        of_groups = {groups: grouped(x, y, world.lengths, groups) for groups in (GROUPS, world.utterances)}
        of_groups |= {5: moments(x, y, utterances=world.lengths)}
        for groups, m in of_groups.items():
            for name in BOOTSTRAPPED:
                low, high = controls.bootstrap(name, m, seed=world.evidence_seed)
                row = {"measure": name, "standardize": True, "of": "cell", "low": low, "high": high}
                row |= {"value": MEASURES[name].score(m)}
                rows.append(row | {"interval": f"bootstrap, {groups} groups"})
                endless = {"interval": f"bootstrap, {groups} groups, endless speech", "truth": world.truth(name, 0)}
                rows.append(row | endless)
    known = {"seed": world.seed, "kind": world.kind, "speakers": world.speakers, "offset": world.offset}
    return [known | row for row in rows]


def read(found: Evidence) -> dict[str, Reading]:
    """Return the readings of `readings` with their intervals."""
    columns = found.cells[["model_x", "layer_x", "model_y", "layer_y"]]
    keys = list(columns.itertuples(index=False, name=None))

    def of(name: str) -> Callable[[np.ndarray], np.ndarray]:
        def one(row: np.ndarray) -> float:
            return readings(dict(zip(keys, row, strict=True)))[name]

        return lambda values: np.apply_along_axis(one, -1, values) if values.size else np.empty(values.shape[:-1])

    return {name: found.reading(of(name)) for name in ("cell", "mean", "difference")}


# a neuron of another scale


def with_outlier(kind: str, seed: int) -> Rows:
    """Return how far a neuron at 30 times the scale moves what is found."""
    worlds = [World(kind, seed, outlier=outlier) for outlier in (False, True)]
    (plain, models), (scaled, large) = (evidence_of(world, standardize=[True, False]) for world in worlds)
    standard = plain.cells.standardize.to_numpy(bool)
    moved = {
        name: np.nanmax(np.abs(of(plain)[..., standard] - of(scaled)[..., standard]))
        for name, of in (
            ("score", lambda found: found.cells.value.to_numpy()),
            ("mismatches", lambda found: found.null),
            ("groups left out", lambda found: found.left_out),
            ("random bases", lambda found: np.nan_to_num(found.turned)),
        )
    }
    both = [
        pd.concat([verdicts.neurons(found, stores), verdicts.layers(found, stores)], ignore_index=True)
        for found, stores in ((plain, models), (scaled, large))
    ]
    raw = both[0].claim.str.startswith("raw")
    numbers = ["effect", "ci_low", "ci_high", "p"]
    moved["verdicts"] = (both[0][~raw][numbers] - both[1][~raw][numbers]).abs().max(axis=None)
    row: dict[str, Any] = {"world": kind, "seed": seed, **{f"moved: {name}": size for name, size in moved.items()}}
    row["verdicts changed"] = int((both[0].holds != both[1].holds)[~raw].sum())
    for name in ("linear_cka_debiased", "svcca"):
        rows = (plain.cells.measure == name) & ~plain.cells.standardize.astype(bool)
        rows &= (plain.cells.layer_x == plain.cells.layer_y) & (plain.cells.model_x != plain.cells.model_y)
        for label, found in (("", plain), (", outlier", scaled)):
            row[f"{name} raw{label}"] = found.only(rows).reading().value
    for label, verdict in zip(("", ", outlier"), both, strict=True):
        row[f"raw as standardised{label}"] = bool((verdict.holds[raw] == "yes").all())
    for label, world in zip(("", ", outlier"), worlds, strict=True):
        layers = [layer for pair in world.activations() for layer in pair]
        owned = [controls.concentration(x, moments(x, x).x) for x in layers]
        right = [found.owned and found.top_neuron == world.neurons - 1 for found in owned]
        row[f"owned{label}"] = np.mean([found.owned for found in owned])
        row[f"right neuron{label}"] = np.mean(right)
    return [row]


# how much speech


def powered(effect: int, utterances: int, frames: int, seed: int) -> Rows:
    """Return what is found of a weak effect in so much speech."""
    name, claims, options = EFFECTS[effect]
    world = World(seed=seed, neurons=40, layers=1, utterances=utterances, frames=frames, **options)
    found, models = evidence_of(world, MEASURED[:2])
    verdict = verdicts.neurons(found, models).set_index("claim")
    row = {"kind": name, "utterances": utterances, "each": frames, "frames": int(world.lengths.sum())}
    return [row | {"claim": claim, "found": verdict.holds[claim] == "yes"} for claim in claims]


def power(count: int, workers: int, out: Path) -> None:
    """Write how often weak effects are found."""
    jobs = [
        (effect, utterances, frames, seed)
        for effect in range(len(EFFECTS))
        for frames, amounts in AMOUNTS.items()
        for utterances in amounts
        for seed in range(count)
    ]
    found = over_all(powered, jobs, workers, "power")
    found["claim"] += found.each.map({frames: f" (utterances of {frames / 50:g} s)" for frames in AMOUNTS})
    rows = []
    for (claim, kind, utterances), group in found.groupby(["claim", "kind", "utterances"], sort=False):
        share, low, high = rate(group.found)
        row = {"claim": claim, "kind": kind, "utterances": utterances, "frames": round(group.frames.mean())}
        rows.append(row | {"power": share, "low": low, "high": high})
    order = list(dict.fromkeys(found.claim))
    table = pd.DataFrame(rows).sort_values("claim", key=lambda claims: claims.map(order.index), kind="stable")
    table.to_csv(out / "power.csv", index=False, float_format="%.4f")
    print(power_table(table))
    import matplotlib.pyplot as plt

    from sslsim.figures import heatmaps as plots

    figure, axes = plt.subplots(len(AMOUNTS), 2, figsize=(8.5, 7.5), layout="constrained", sharey=True)
    plots.power(table, axes=axes.ravel())
    figure.savefig(out / "power.png", dpi=150)


def power_table(table: pd.DataFrame) -> str:
    wide = table.pivot_table(index=["claim", "kind"], columns="utterances", values="power", sort=False)
    rows = [
        {"claim": claim, "shared": kind} | {f"{n} utterances": percent(v) for n, v in row.items()}
        for (claim, kind), row in wide.iterrows()
    ]
    return markdown(rows)


# tables


def markdown(rows: Rows) -> str:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = [heads, ["---"] * len(heads), *([str(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float) -> str:
    return "" if pd.isna(share) else f"{100 * share:.1f} %".replace(".0 %", " %")


def with_ends(hits: Iterable[bool]) -> str:
    share, low, high = rate(hits)
    return "" if np.isnan(share) else f"{percent(share)} ({100 * low:.1f} to {100 * high:.1f})"


def summed(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return every figure of a table of worlds: rates with their intervals, means, coverage."""
    rows = []
    for key, group in found.groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True)) | {"worlds": len(group)}
        if "holds" in group:
            known = group.p.dropna()
            rates = {"found": group.holds, "p_05": known <= ALPHA, "p_10": known <= 0.1, "p_50": known <= 0.5}
        else:
            rates = {}
        if "low" in group and group.low.notna().all() and group.truth.notna().all():
            rates["covered"] = covered(group)
            row["width"] = (group.high - group.low).mean()
        for name, hits in rates.items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), rate(hits), strict=True))
        for name in ("effect", "value", "truth"):
            if name in group and group[name].notna().all():
                row[name] = group[name].astype(float).mean()
        rows.append(row)
    return pd.DataFrame(rows)


SHOULD = {
    "independent": "nothing",
    "permuted": "subspace and neurons",
    "rotated": "the subspace, not the neurons",
    "half": "half of the subspace, not the neurons",
    "tenth": "a tenth of the neurons and of the subspace",
}


def main_table(found: pd.DataFrame) -> str:
    rows = []
    for world, group in found.groupby("world", sort=False):
        of = dict(list(group.groupby("what")))
        both = [of[SUBSPACE], of[PARTNERS]]
        names = ("subspace", "neurons")
        rows.append(
            {
                "world": world,
                "what should be found": SHOULD[world.split(",")[0]],
                "found, of worlds": "; ".join(
                    f"{name} {with_ends(one.holds)}" for name, one in zip(names, both, strict=True)
                ),
                "effect found against true": "; ".join(
                    f"{name} {one.effect.mean():.3f} against {one.truth.astype(float).mean():.3f}"
                    for name, one in zip(names, both, strict=True)
                ),
                "coverage at 95 %": "; ".join(
                    f"{name} {with_ends(covered(one))}" for name, one in zip(names, both, strict=True)
                ),
            }
        )
    return markdown(rows)


def rates_table(found: pd.DataFrame) -> str:
    rows = []
    for (world, what), group in found[found.p.notna()].groupby(["world", "what"], sort=False):
        if "against the share" not in what and not what.startswith("raw"):
            row = {"world": world, "claim": what, "holds": with_ends(group.holds)}
            rows.append(row | {f"p <= {c:g}": with_ends(group.p <= c) for c in (ALPHA, 0.5)})
    return markdown(rows)


def coverage_table(found: pd.DataFrame, by: str, columns: Sequence[str]) -> str:
    rows = []
    for (world, measure, standardize), group in found.groupby([by, "measure", "standardize"], sort=False):
        row: dict[str, Any] = {by: world, "score": measure + ("" if standardize else ", raw")}
        for key, one in group.groupby(list(columns), sort=False):
            row[", ".join(key)] = with_ends(covered(one))
        rows.append(row)
    return markdown(rows)


def outlier_table(found: pd.DataFrame) -> str:
    rows = []
    for world, group in found.groupby("world", sort=False):
        moved = group.filter(like="moved")
        row = {"world": world, "worlds": len(group)}
        row |= {"largest move of a standardised score, draw or verdict": f"{moved.max(axis=None):.0e}"}
        row |= {"standardised verdicts changed": int(group["verdicts changed"].sum())}
        for name in ("linear_cka_debiased", "svcca"):
            before, after = group[f"{name} raw"].mean(), group[f"{name} raw, outlier"].mean()
            row[f"{name}, raw"] = f"{before:.3f} to {after:.3f}"
        row["raw CKA said to be as standardised"] = " to ".join(
            percent(group[f"raw as standardised{label}"].mean()) for label in ("", ", outlier")
        )
        owned = (group[f"owned{label}"].mean() for label in ("", ", outlier"))
        rows.append(row | {"layers said to be owned": " to ".join(map(percent, owned))})
    return markdown(rows)


def calibration(count: int, workers: int, out: Path) -> None:
    """Write how often verdicts and intervals are right."""
    start = time.perf_counter()
    few = max(1, count // 4)
    jobs = [(World(kind, seed), kind) for kind in KINDS for seed in range(count)]
    # other seeds than the worlds without
    jobs += [(World(kind, count + seed, outlier=True), f"{kind}, outlier") for kind in KINDS for seed in range(few)]
    for speakers, offset in VOICES:
        label = f"independent, {speakers} speakers"
        jobs += [(World("independent", seed, speakers=speakers, offset=offset), label) for seed in range(count // 2)]
    judged_worlds = over_all(judged, jobs, workers, "verdicts")
    print(main_table(judged_worlds), rates_table(judged_worlds), sep="\n\n", flush=True)

    mixtures = min(MIXTURES, count)
    models = [World(kind, seed) for kind in KINDS for seed in range(mixtures)]
    voices = [
        World("half", seed, utterances=60, speakers=speakers, offset=offset)
        for speakers, offset in VOICES
        for seed in range(mixtures)
    ]
    other = [range(10_000 + first, 10_000 + first + 50) for first in range(0, OTHER_SPEECH, 50)]
    speech = over_all(
        of_other_speech, [(world, draws) for world in (*models, *voices) for draws in other], workers, "other speech"
    )
    keys = ["kind", "speakers", "offset", "seed", "measure", "standardize", "of"]
    truth = speech.groupby(keys).value.mean().rename("mean")
    each = count // mixtures
    jobs = [(replace(w, draw=n), ("utterance",), n < (each + 1) // 2) for w in models for n in range(each)]
    jobs += [(replace(w, draw=n), ("utterance", "speaker"), False) for w in voices for n in range(each)]
    ends = over_all(intervals, jobs, workers, "intervals").join(truth, on=keys)
    ends["truth"] = ends.truth.fillna(ends["mean"])
    few_jobs = [(kind, seed) for kind in KINDS for seed in range(few)]
    moved = over_all(with_outlier, few_jobs, workers, "outliers")

    plain, spoken = ends[ends.offset == 0], ends[ends.offset > 0]
    spoken = spoken.assign(world="half, " + spoken.speakers.astype(str) + " speakers")
    parts = {
        "verdicts": summed(judged_worlds, ["world", "what"]),
        "intervals": summed(
            plain.rename(columns={"kind": "world"}), ["world", "measure", "standardize", "of", "interval"]
        ),
        "speakers": summed(spoken, ["world", "measure", "standardize", "of", "interval"]),
        "outliers": moved.drop(columns="seed").groupby("world", sort=False).agg(["mean", "max"]).pipe(flat),
    }
    pd.concat([table.assign(section=name) for name, table in parts.items()]).to_csv(
        out / "worlds.csv", index=False, float_format="%.6g"
    )
    packages = ", ".join(f"{package} {version(package)}" for package in ("sslsim", "numpy", "scipy", "torch", "pandas"))
    main = judged_worlds[judged_worlds.world.isin(KINDS)]
    large = judged_worlds[judged_worlds.world.str.endswith("outlier")]
    voiced = judged_worlds[judged_worlds.world.str.endswith("speakers")]
    world = models[0]
    text = f"""# Made worlds

Written by `python tests/benchmarks/worlds.py --worlds {count}`: {date.today()}, {packages}.

Two models of {world.layers} layers of {world.neurons} neurons on {world.utterances} utterances of {world.frames} frames
on average; correlation from one frame to the next {FASTEST:g} to {SLOWEST:g}. {DRAWS} mismatches and random bases,
{GROUPS} groups of utterances left out. Seeds 0 to {count - 1} of each kind. In parentheses: exact 95 % intervals of the
rates.

## The five worlds

{main_table(main)}

With one neuron of each layer at {OUTLIER:g} times the scale, seeds {count} to {count + few - 1}:

{main_table(large)}

## Claims and their probabilities

Where there is nothing, p <= 0.05 should be seen in {100 / (DRAWS + 1):.1f} % of the worlds, p <= 0.5 in
{100 * (DRAWS // 2) / (DRAWS + 1):.1f} %.

{rates_table(main)}

The same where neurons of both models hear the speaker, each in its own way (offsets of {VOICES[0][1]:g} deviations):

{rates_table(voiced)}

## Intervals of scores

How often they contain the mean score on other speech of the same amount ({mixtures} pairs of models a kind,
{OTHER_SPEECH} draws of other speech for each truth).

{coverage_table(plain[plain.interval == "jackknife, utterance"], "kind", ["of"])}

The bootstrap of one cell by groups of utterances (in half of the worlds), and the corrected jackknife, against that
mean or against the score on endless speech.

{coverage_table(plain[plain.interval != "jackknife, utterance"], "kind", ["interval"])}

The same with speakers who take turns at 60 utterances:

{coverage_table(spoken, "world", ["of", "interval"])}

## One neuron at {OUTLIER:g} times the scale

The same worlds without and with it.

{outlier_table(moved)}
"""
    RESULTS.write_text(text)
    print(text)
    print(f"{time.perf_counter() - start:.0f} s")


def flat(table: pd.DataFrame) -> pd.DataFrame:
    table.columns = [f"{name}, {kind}" for name, kind in table.columns]
    return table.reset_index()


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
