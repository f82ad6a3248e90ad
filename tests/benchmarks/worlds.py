"""Claims and intervals on made worlds, whose truth is known: how often they are right, and how much speech they need.

python tests/benchmarks/worlds.py              25 worlds a kind, 50 where nothing is shared, to worlds.md
python tests/benchmarks/worlds.py --power      how much speech a weak effect needs, to power.csv and power.png

What is done is kept in worlds.jsonl beside them: started again, it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
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

from worlds import FAST, FASTEST, LOUD, MEASURED, OUTLIER, SLOW, SLOWEST, World, evidence_of

from sslsim.analysis import layer_claims, neuron_claims
from sslsim.analysis.layers import measured, separate_at_same_depth
from sslsim.measures.registry import similarity
from sslsim.significance.evidence import Resampling
from sslsim.significance.jackknife import LEVEL
from sslsim.significance.nulls import ALPHA
from sslsim.speech.positions import positions, stride_for

FOLDER = Path(__file__).parent
RATES = ("all", "a tenth")  # of the frames
SIZE = {"frames": 120}  # of an utterance, so that a tenth is still 500 of 30 neurons
SCORES = [name for name in MEASURED if name != "neuron_count"]  # a count is of the speech at hand
KNOWN = ("linreg_r2", "neuron_excess", "neuron_count")  # measures of claims whose truth is known
NOTHING = "nothing"
# name: what the world is, what should be found
WORLDS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing shared": ({"kind": "independent"}, NOTHING),
    f"a neuron at {OUTLIER:g} times the scale": ({"kind": "independent", "outlier": True}, NOTHING),
    "onset: first 8 frames": ({"kind": "independent", "also": "onset"}, NOTHING),
    "silence at both ends": ({"kind": "independent", "also": "ends"}, NOTHING),
    "trend in t/T": ({"kind": "independent", "also": "trend"}, NOTHING),
    "parabola in t/T": ({"kind": "independent", "also": "bend"}, NOTHING),
    "loudness scales both": ({"kind": "independent", "also": "gain"}, NOTHING),
    "loudness drives both": ({"kind": "independent", "also": "loudness"}, f"loudness: {LOUD:.0%} of the variance"),
    "20 speakers": ({"kind": "independent", "speakers": 20, "offset": 0.5}, "who speaks"),
    "5 speakers": ({"kind": "independent", "offset": 0.5}, "who speaks"),
    "the same neurons, permuted": ({"kind": "permuted"}, "subspace and neurons"),
    "the same subspace, rotated": ({"kind": "rotated"}, "the subspace, not the neurons"),
    "half of the subspace": ({"kind": "half"}, "half of the subspace, not the neurons"),
    "a tenth of the neurons": ({"kind": "tenth"}, "a tenth of the neurons and of the subspace"),
    "half of the neurons, two frames late": ({"kind": "lag"}, "half of the neurons, part of the subspace"),
    "half of the neurons, tanh": ({"kind": "tanh"}, "half of the neurons, most of the subspace"),
    "half of the neurons, exp": ({"kind": "exp"}, "half of the neurons, part of the subspace"),
    "half of the subspace, slow; the rest fast": (
        {"kind": "half", "shared_speed": SLOW, "own_speed": FAST},
        "half of the subspace, not the neurons",
    ),
    "half of the subspace, fast; the rest slow": (
        {"kind": "half", "shared_speed": FAST, "own_speed": SLOW},
        "half of the subspace, not the neurons",
    ),
}
POSITIONS = ("onset: first 8 frames", "silence at both ends", "trend in t/T", "parabola in t/T")
GIVEN = {f"{name}; position given": name for name in POSITIONS}
HELD = ("half of the subspace", "a tenth of the neurons", "half of the subspace, slow; the rest fast")
MIXTURES = 5  # models among which the worlds of a kind are divided where scores are held against other speech
OTHER_SPEECH = 50  # times that other speech is made for each, whose mean score is the truth
ROUNDING = 1e-6  # an interval of a score of 1 has no width
AMOUNTS = {60: (10, 20, 40, 80, 160), 250: (10, 20, 40, 80)}  # frames of an utterance: utterances
FAINT = 0.3  # correlation of what is shared
EFFECTS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("nothing", KNOWN, {"kind": "independent"}),
    *(
        (f"{100 * share:g} % at r = {FAINT:g}", measures, {"kind": kind, "shared": share, "noise": 1 - FAINT**2})
        for share in (0.05, 0.1, 0.2)
        for measures, kind in ((KNOWN[:1], "half"), (KNOWN[1:], "tenth"))
    ),
]
Rows = list[dict[str, Any]]


def single() -> None:
    torch.set_num_threads(1)
    os.environ["SSLSIM_FRESH"] = "1"


def called(job: Callable[..., Rows], call: tuple[Any, ...]) -> Rows:
    return job(*call)


def over_all(job: Callable[..., Rows], calls: Sequence[tuple[Any, ...]], workers: int, out: Path) -> pd.DataFrame:
    """Run what is not in worlds.jsonl yet in worker processes of one thread each, and keep it there."""
    start, kept = time.perf_counter(), out / "worlds.jsonl"
    keys = [f"{job.__name__}{call}" for call in calls]
    text = kept.read_text(encoding="utf-8") if kept.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # the last line may have been broken off
    kept.write_text(whole, encoding="utf-8")
    found = dict(json.loads(line) for line in whole.splitlines())
    left = [(key, call) for key, call in zip(keys, calls, strict=True) if key not in found]
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=single) as pool,
        kept.open("a") as file,
    ):
        jobs = pool.map(called, [job] * len(left), [call for _, call in left], chunksize=2)
        for done, ((key, _), rows) in enumerate(zip(left, jobs, strict=True), 1):
            found[key] = rows
            print(json.dumps([key, rows], default=float), file=file, flush=True)
            if done % max(1, len(left) // 10) == 0:
                print(f"{job.__name__}: {done} of {len(left)}, {time.perf_counter() - start:.0f} s", flush=True)
    return pd.DataFrame([row for key in keys for row in found[key]])


def rate(hits: Iterable[bool]) -> tuple[float, float, float]:
    """Share of hits and its exact 95 % interval."""
    hits = np.asarray(list(hits), dtype=bool)
    ends = binomtest(int(hits.sum()), len(hits)).proportion_ci(LEVEL)
    return float(hits.mean()), float(ends.low), float(ends.high)


def covered(table: pd.DataFrame) -> pd.Series:
    return (table.low - ROUNDING <= table.truth) & (table.truth <= table.high + ROUNDING)


def frames_of(world: World, at: str) -> int | None:
    return None if at == "all" else int(world.lengths.sum()) // 10


# claims


def told(claim: Any) -> bool:
    """Say whether an effect is told from its control, whatever its size."""
    return bool(claim.p <= ALPHA and claim.ci_low > 0)


def claimed(name: str, at: str, seed: int) -> Rows:
    """Return what is claimed of a world, and the best layers, with the truth where it is known."""
    world = World(seed=seed, **SIZE, **WORLDS[GIVEN.get(name, name)][0])
    evidence = evidence_of(world, MEASURED, frames_of(world, at), given="position" if name in GIVEN else None)
    truth = {} if world.offset else {measure: world.true_mean(measure) for measure in KNOWN}
    rows: Rows = []
    for row in pd.concat([neuron_claims(evidence), layer_claims(evidence)]).itertuples():
        ends = {"effect": row.effect, "low": row.ci_low, "high": row.ci_high, "truth": truth.get(row.measure)}
        rows.append({"claim": row.claim, "measure": row.measure, "p": row.p, "holds": told(row)} | ends)
    for measure in ("svcca", "linear_cka_debiased"):
        p = measured(separate_at_same_depth(evidence)[0][1], measure).estimate(lambda v: v.max(-1)).p
        rows.append({"claim": "the best layers are alike", "measure": measure, "p": p, "holds": p <= ALPHA})
    return [{"world": name, "at": at} | row for row in rows]


def claims_table(found: pd.DataFrame) -> str:
    """One row a world and claim: how often it holds, what it says against the truth, coverage; at both rates."""
    rows = []
    for (world, claim, measure), group in found.groupby(["world", "claim", "measure"], sort=False):
        if claim.startswith("raw"):
            continue
        row = {"world": world, "n": len(group) // len(RATES), "should be found": WORLDS[GIVEN.get(world, world)][1]}
        row["claim"] = f"{claim} ({measure})"
        for at in RATES:
            one = group[group["at"] == at]
            row[f"holds, {at}"] = with_ends(one.holds)
            row[f"p <= {ALPHA:g}, {at}"] = with_ends(one.p <= ALPHA) if one.p.notna().all() else ""
        for at in RATES:
            one = group[(group["at"] == at) & group.truth.notna()]
            row[f"effect (true), {at}"] = f"{one.effect.mean():.3f} ({one.truth.mean():.3f})" if len(one) else ""
            row[f"coverage, {at}"] = with_ends(covered(one)) if len(one) else ""
        rows.append(row)
    return markdown(rows)


# scores on other speech


def numbers(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of one pair of layers, and of all at one depth."""
    same = table[table.layer_x == table.layer_y]
    return {"pair": same[(same.layer_x == 0) & (same.model_x == "x")], "mean": same}


def of_other_speech(name: str, at: str, seed: int) -> Rows:
    """Return the mean scores of the same models on other speech."""
    rows: Rows = []
    for draw in range(10_000, 10_000 + OTHER_SPEECH):
        world = World(seed=seed, draw=draw, **SIZE, **WORLDS[name][0])
        places = [positions(n, stride_for(world.lengths, frames_of(world, at))) for n in world.lengths.tolist()]
        frames = np.concatenate([start + place for start, place in zip(world.starts, places, strict=True)])
        for layer, (x, y) in enumerate(world.activations()):
            for model, a, b in (("x", x, y), ("y", y, x)):
                row = {"layer_x": layer, "layer_y": layer, "model_x": model}
                rows += [row | {"measure": m, "value": similarity(m, a[frames], b[frames])} for m in SCORES]
    means = ((of, some.groupby("measure").value.mean()) for of, some in numbers(pd.DataFrame(rows)).items())
    key = {"world": name, "at": at, "seed": seed}
    return [key | {"measure": m, "of": of, "truth": value} for of, some in means for m, value in some.items()]


def intervals(name: str, at: str, seed: int, draw: int) -> Rows:
    """Return the intervals of scores of layers at one depth, to be held against other speech."""
    world = World(seed=seed, draw=draw, **SIZE, **WORLDS[name][0])
    evidence = evidence_of(world, SCORES, frames_of(world, at), permutations=0, rotations=0)
    rows: Rows = []
    for of, some in numbers(evidence.pairs).items():
        for measure in SCORES:
            e = evidence.only(evidence.pairs.index.isin(some.index[some.measure == measure])).estimate()
            rows.append({"measure": measure, "of": of, "value": e.value, "low": e.low, "high": e.high})
    return [{"world": name, "at": at, "seed": seed} | row for row in rows]


def coverage_table(found: pd.DataFrame) -> str:
    rows = []
    for (world, measure), group in found.groupby(["world", "measure"], sort=False):
        row: dict[str, Any] = {"world": world, "n": len(group) // len(RATES) // group.of.nunique(), "score": measure}
        row |= {", ".join(key): with_ends(covered(one)) for key, one in group.groupby(["of", "at"], sort=False)}
        rows.append(row)
    return markdown(rows)


# how much speech


def powered(effect: int, utterances: int, frames: int, seed: int) -> Rows:
    """Return what is found of a weak effect in so much speech."""
    name, measures, options = EFFECTS[effect]
    world = World(seed=seed, neurons=40, layers=1, utterances=utterances, frames=frames, **options)
    claims = neuron_claims(evidence_of(world, MEASURED[:4])).set_index("measure")
    row = {"kind": name, "utterances": utterances, "each": frames, "frames": int(world.lengths.sum())}
    return [row | {"claim": claims.claim[m], "found": told(claims.loc[m])} for m in measures]


def power(count: int, workers: int, out: Path) -> None:
    """Write how often weak effects are found."""
    calls = [
        (effect, utterances, frames, seed)
        for effect in range(len(EFFECTS))
        for frames, amounts in AMOUNTS.items()
        for utterances in amounts
        for seed in range(count)
    ]
    found = over_all(powered, calls, workers, out)
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


def with_ends(hits: Iterable[bool]) -> str:
    share, low, high = (100 * number for number in rate(hits))
    return f"{share:.1f} % ({low:.0f} to {high:.0f})".replace(".0 %", " %")


def calibration(count: int, workers: int, out: Path) -> None:
    """Write how often claims and intervals are right."""
    names = {name: count * (2 if WORLDS[GIVEN.get(name, name)][1] == NOTHING else 1) for name in (*WORLDS, *GIVEN)}
    claims = over_all(
        claimed, [(n, at, s) for s in range(2 * count) for n in names if s < names[n] for at in RATES], workers, out
    )
    claims = claims.sort_values("world", key=lambda world: world.map(list(names).index), kind="stable")
    models = [(name, at, seed) for name in HELD for at in RATES for seed in range(MIXTURES)]
    truth = over_all(of_other_speech, models, workers, out).set_index(["world", "at", "seed", "measure", "of"]).truth
    draws = [(*model, draw) for model in models for draw in range(max(1, 2 * count // MIXTURES))]
    ends = over_all(intervals, draws, workers, out).join(truth, on=truth.index.names)
    text = report(count, claims, ends)
    (out / "worlds.md").write_text(text, encoding="utf-8")
    print(text)


def report(count: int, claims: pd.DataFrame, ends: pd.DataFrame) -> str:
    """Return worlds.md."""
    packages = ", ".join(f"{package} {version(package)}" for package in ("sslsim", "numpy", "scipy", "torch", "pandas"))
    world, resampling = World("half", 0, **SIZE), Resampling()
    k = resampling.permutations
    return f"""# Made worlds

Written by `python tests/benchmarks/worlds.py --worlds {count}`: {date.today()}, {packages}.

Two models of {world.layers} layers of {world.neurons} neurons on {world.utterances} utterances of {world.frames} frames
on average, all of which are compared, or a tenth of them; correlation from one frame to the next {FASTEST:g} to
{SLOWEST:g}, slow {SLOW[0]:g} to {SLOW[1]:g}, fast {FAST[0]:g} to {FAST[1]:g}. {k} permutations, {resampling.rotations}
rotations, {resampling.blocks} blocks. In parentheses: exact 95 % intervals of the rates.

## Claims

A claim holds when p is at most {ALPHA:g} and its interval lies above 0. Where there is nothing, p <= {ALPHA:g} should
be seen in {100 / (k + 1):.1f} % of the worlds. Worlds without anything shared have the same neurons in every
row, so that their rates go together.

{claims_table(claims)}

## Intervals of scores

How often they contain the mean score on other speech of the same amount ({MIXTURES} pairs of models a kind, the speech
made {OTHER_SPEECH} times for each truth).

{coverage_table(ends)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=None, help="of each kind; 25, and 60 for the power")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for tables, figure and worlds.jsonl")
    parser.add_argument("--power", action="store_true", help="how much speech a weak effect needs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    (power if asked.power else calibration)(asked.worlds or (60 if asked.power else 25), asked.workers, asked.out)


if __name__ == "__main__":
    main()
