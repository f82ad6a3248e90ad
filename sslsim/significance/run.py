"""Grids with their controls: each score with a chance level, an interval and, for neurons, a random basis.

Controls are the same grid computed again on other frames (utterances mismatched), without groups of utterances, and
with layers in random bases. What comes out is kept draw by draw, so that any *reading* of the cells (their mean over
a relation, the best layer, the difference of two relations) has a chance level and an interval of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from sslsim.activations.selection import State, check_between, check_names, check_stores, states_of, utterances_of
from sslsim.activations.store import ActivationStore
from sslsim.comparison.engine import Control, Found, Job, score_orders, score_pairs
from sslsim.comparison.heads import HeadScores, check_attention_measures, crop_rows, head_scores, rows_of
from sslsim.comparison.layers import jobs_of, partner_keys, partners_table, scores_table
from sslsim.errors import SslsimError
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.products import Utterances
from sslsim.measures.registry import MEASURES
from sslsim.significance import jackknife as controls

DRAWS = 20  # mismatches and random bases: the smallest p is then 1 / 21
GROUPS = 10  # of utterances, left out one after another
ROTATIONS_OUT = 1  # bases in which the groups are left out: a mean over neurons hardly depends on the basis
ROTATIONS_CHANCE = 1  # bases of each mismatch
ROTATE_CHANCE = ("max_corr",)  # what is scored in them: an assignment takes ten times as long
UNITS = ("utterance", "speaker")


@dataclass(frozen=True)
class Reading:
    """A number read from cells, and what it is worth.

    Attributes
    ----------
    value : float
        Read from the scores.
    low, high : float
        Interval over speech like this (`controls.jackknife_interval`): models and layers are taken as they are.
    error : float
        Standard error.
    chance : float
        Mean of the same reading over the mismatches.
    threshold : float
        What chance exceeds once in twenty times (`controls.threshold`).
    z : float
        Distance from chance in standard deviations of the mismatches.
    p : float
        Of at least this value by chance.
    calibrated : float
        `controls.calibrated`.
    p_rotation : float
        Of at least this value in random bases; NaN but for excesses over them.
    p_zero : float
        Of 0, two-sided, by the jackknife: for differences of two readings, which mismatches say nothing about.
    """

    value: float
    low: float
    high: float
    error: float
    chance: float
    threshold: float
    z: float
    p: float
    calibrated: float
    p_rotation: float
    p_zero: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of many pairs with their controls, draw by draw.

    Attributes
    ----------
    cells : DataFrame
        One row a score, as from `sslsim.compare`. Beside a measure of single neurons stand the rows of its excess over
        random bases of either side, ``max_corr_excess_x`` and ``max_corr_excess_y``, and those of ``neurons_shared``
        (`rotations.shared`).
    null : ndarray of shape (K, n_cells)
        The scores of every mismatch of utterances, the same for all cells of a draw; NaN for excesses of matched_corr.
    left_out : ndarray of shape (G, n_cells)
        The scores without every group of utterances.
    sizes : tuple of int
        Frames of each group.
    turned : ndarray of shape (R, n_cells)
        Of excesses: those of random bases themselves, so that 0 is their mean. NaN elsewhere.
    """

    cells: pd.DataFrame
    null: NDArray[np.float64]
    left_out: NDArray[np.float64]
    sizes: tuple[int, ...]
    turned: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("null", "left_out", "turned"):
            if getattr(self, name).shape[1:] != (len(self.cells),):
                raise SslsimError(f"{name} has shape {getattr(self, name).shape} for {len(self.cells)} cells")

    def table(self, level: float = controls.LEVEL) -> pd.DataFrame:
        """Cells with ci_low, ci_high, chance, threshold, z, p and calibrated beside the value.

        p is that of the cell alone: for the best of several cells see `reading` with a maximum.
        """
        value = self.cells.value.to_numpy()
        out = self.cells.copy()
        if len(self.left_out):
            out["ci_low"], out["ci_high"] = controls.jackknife_interval(value, self.left_out, self.sizes, level)
        if len(self.null):
            out["chance"], out["threshold"] = self.null.mean(0), controls.threshold(value, self.null)
            out["z"] = _z(value, self.null)
            out["p"] = controls.p_value(value, self.null)
            out["calibrated"] = controls.calibrated(value, self.null)
            out.loc[out.chance.isna(), ["threshold", "p", "calibrated"]] = np.nan
        if np.isfinite(self.turned).any():
            out["p_rotation"] = np.where(
                np.isfinite(self.turned).all(0), controls.p_value(value, np.nan_to_num(self.turned)), np.nan
            )
        return out

    def only(self, rows: NDArray[np.bool_] | pd.Series) -> Evidence:
        """Return the evidence of some of the cells."""
        kept = np.asarray(rows, dtype=bool)
        cells = self.cells[kept].reset_index(drop=True)
        return Evidence(cells, self.null[:, kept], self.left_out[:, kept], self.sizes, self.turned[:, kept])

    def reading(
        self, of: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None, level: float = controls.LEVEL
    ) -> Reading:
        """Read one number from all cells.

        Parameters
        ----------
        of : callable
            From scores (..., n_cells) to numbers (...); their mean by default, ``lambda v: v.max(-1)`` for the best.
        level : float
            Coverage of the interval.
        """
        if self.cells.empty:
            raise SslsimError("no cells to read; choose models or layers that were compared")
        of = of or (lambda values: values.mean(-1))
        every = (self.cells.value.to_numpy(), self.null, self.left_out, self.turned)
        value, null, left, turned = (of(values) for values in every)
        found: dict[str, Any] = dict.fromkeys((field.name for field in fields(Reading)), np.nan) | {"value": value}
        if len(left):
            found["low"], found["high"] = controls.jackknife_interval(value, left, self.sizes, level)
            found["error"] = controls.jackknife_error(value, left, self.sizes)
            found["p_zero"] = 2 * stats.t.sf(abs(value) / max(found["error"], np.finfo(float).tiny), len(left) - 1)
        if len(null) and np.isfinite(null).all():
            found["chance"], found["threshold"] = null.mean(), controls.threshold(value, null)
            found["z"], found["p"] = _z(value, null), controls.p_value(value, null)
            found["calibrated"] = controls.calibrated(value, null)
        if len(turned) and np.isfinite(turned).all():
            found["p_rotation"] = controls.p_value(value, turned)
        return Reading(**{name: float(number) for name, number in found.items()})


def _z(value: NDArray[np.float64], null: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (value - null.mean(0)) / null.std(0, ddof=1) if len(null) > 1 else np.full(np.shape(value), np.nan)


def groups_of(index: pd.DataFrame, lengths: Sequence[int], groups: int, unit: str) -> Utterances:
    """Return groups to leave out one after another: runs of utterances, or whole speakers.

    Parameters
    ----------
    index : DataFrame
        Of a store.
    lengths : sequence of int
        Frames compared of each utterance.
    groups : int
        Most groups; speakers beyond share one.
    unit : {'utterance', 'speaker'}
        What stays together.
    """
    if unit not in UNITS:
        raise SslsimError(f"unit is {unit!r}; give one of {', '.join(UNITS)}")
    if groups < 2:
        raise SslsimError(f"groups is {groups}; an interval needs at least 2")
    if unit == "utterance":
        made = Utterances(tuple(lengths), groups)
    else:
        size = pd.Series(lengths).groupby(index.speaker.to_numpy()).sum().sort_values(ascending=False, kind="stable")
        load, label = np.zeros(groups), {}
        for speaker, frames in size.items():  # the longest first, to where least is
            label[speaker] = int(load.argmin())
            load[label[speaker]] += frames
        made = Utterances(tuple(lengths), labels=tuple(label[speaker] for speaker in index.speaker))
    if len(made.members) < 2:
        raise SslsimError(f"{len(made.members)} {unit} with frames; an interval needs at least 2")
    return made


def evidence(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    *,
    standardize: bool | Sequence[bool] = True,
    raw: Sequence[str] = (),
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    draws: int = DRAWS,
    groups: int = GROUPS,
    unit: str = "utterance",
    sample: int = SAMPLE,
    seed: int = 0,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Evidence:
    """Compare layers as `sslsim.compare` does, with chance level, interval and random bases of every score.

    Parameters
    ----------
    stores, measures, standardize, raw, frames, between, sample, executor, device, progress
        See `sslsim.compare`; measures of layers and neurons.
    draws : int
        Mismatches of utterances, the same for all layers, and random bases; 0 for no chance levels. Each costs
        something less than the comparison itself. At most one less than there are utterances are made.
    groups : int
        Groups of utterances to leave out for the intervals; 0 for none.
    unit : {'utterance', 'speaker'}
        What stays together in a group.
    seed : int
        Of mismatches and bases.
    """
    check_names(measures)
    return _evidence(
        stores, jobs_of(measures, standardize, raw), frames, between, draws, groups, unit, sample, seed, False,
        {"executor": executor, "device": device}, progress,
    )[0]  # fmt: skip


def neuron_evidence(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("max_corr", "matched_corr", "linreg"),
    *,
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    draws: int = DRAWS,
    groups: int = GROUPS,
    unit: str = "utterance",
    seed: int = 0,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[Evidence, pd.DataFrame]:
    """Compare layers as `evidence` does, and find each neuron's best partner, with what chance and a random basis give.

    Returns
    -------
    evidence : Evidence
        As from `evidence`.
    partners : DataFrame
        As from `sslsim.compare_neurons`, and for each neuron: chance, the mean over the mismatches of its best
        correlation with any neuron of the other checkpoint; p, of its size by chance; rotated, the mean of its best
        correlation when every layer of the other checkpoint is in a random basis, and rotated_high, the largest of
        those.
    """
    check_names(measures)
    return _evidence(
        stores, jobs_of(measures), frames, between, draws, groups, unit, SAMPLE, seed, True,
        {"executor": executor, "device": device}, progress,
    )  # fmt: skip


def _evidence(
    stores: Sequence[ActivationStore],
    jobs: list[Job],
    frames: int | None,
    between: Iterable[Sequence[str]] | None,
    draws: int,
    groups: int,
    unit: str,
    sample: int,
    seed: int,
    partners: bool,
    options: dict[str, Any],
    progress: bool,
) -> tuple[Evidence, pd.DataFrame]:
    check_stores(stores)
    _check_draws(draws)
    states = states_of(stores, frames)
    lengths = utterances_of(states).lengths
    left = groups_of(stores[0].index, lengths, groups, unit) if groups else None
    wrong = controls.Mismatches.of(lengths, draws, seed) if draws else None
    by_moments, by_frames = ([j for j in jobs if _of_moments(j) is whether] for whether in (True, False))
    options = options | {"sample": sample, "progress": False}
    chosen = check_between(between, stores)
    draws = len(wrong.partners) if wrong else 0
    turns = draws if any(MEASURES[job.name].matching for job in jobs) else 0
    steps = 1 + (1 + draws if draws else 0) + (len(left.members) if left and by_frames else 0)
    with tqdm(total=steps, desc="controls", disable=not progress, file=sys.stdout, mininterval=1.0) as bar:
        fewer_turns = min(turns, ROTATIONS_OUT)
        control = Control(groups=left.joined if left else None, rotations=turns, rotations_out=fewer_turns, seed=seed)
        found = Found()
        if by_moments:
            found.add(score_pairs(states, by_moments, chosen, control=control, partners=partners, **options))
        if by_frames:
            found.add(score_pairs(states, by_frames, chosen, partners=partners and not by_moments, **options))
        bar.update()
        for fewer in _without_each(states, left) if left and by_frames else ():
            for key, value in score_pairs(fewer, by_frames, chosen, **options).values.items():
                found.left_out.setdefault(key, []).append(value)
            bar.update()
        drawn = []
        if wrong:
            rows = _cropped(states, lengths, wrong.lengths)
            cropped = [replace(state, frames=rows) for state in states]
            orders = [_order(wrong.lengths, partner) for partner in wrong.partners]
            chance = min(turns, ROTATIONS_CHANCE)
            control = Control(rotations=turns, rotations_chance=chance, rotate=ROTATE_CHANCE, single=True, seed=seed)
            for draw in score_orders(cropped, jobs, chosen, orders, control=control, partners=partners, **options):
                drawn.append(draw)
                bar.update()
    made = _assemble(states, jobs, found, drawn, left, sample)
    return made, _partners(states, found, drawn) if partners else pd.DataFrame()


def _check_draws(draws: int) -> None:
    if draws < 0:
        raise SslsimError(f"draws is {draws}; give a number of mismatches, or 0 for none")


def _of_moments(job: Job) -> bool:
    """Whether groups can be left out of its moments; what needs the frames is computed anew without them."""
    measure = MEASURES[job.name]
    return not (measure.prepare or measure.utterances)


def _without_each(states: list[State], groups: Utterances) -> Iterator[list[State]]:
    """Yield the layers without each group of utterances."""
    for kept in groups.without:
        yield [state.only(kept) for state in states]


def _cropped(states: list[State], lengths: Sequence[int], common: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stored frames (n,) of the first so many chosen frames of each utterance."""
    frames = np.arange(states[0].store.n_frames) if states[0].frames is None else states[0].frames
    place = np.concatenate([np.arange(n) for n in lengths])
    return frames[place < np.repeat(common, lengths)]


def _order(common: NDArray[np.int64], partner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order (n,) of cropped frames that puts those of its partner in the place of every utterance."""
    starts = np.cumsum(common) - common
    return np.concatenate([np.arange(starts[v], starts[v] + common[v]) for v in partner])


def _assemble(
    states: list[State], jobs: list[Job], found: Found, drawn: list[Found], left: Utterances | None, sample: int
) -> Evidence:
    """Put cells, draws and left-out scores into arrays of one order.

    `drawn` is first the score on cropped utterances and then the mismatches of those. What cropping does to the score
    is taken off the mismatches, so that they can be held against the score of all frames.
    """
    table, n = scores_table(states, jobs, found, sample), len(states)
    keys = [(job, i, j) for job in jobs for i in range(n) for j in range(n)]
    count, sizes = (len(left.members), left.sizes) if left else (0, ())
    value = table.value.to_numpy()
    left_out = _columns([found.left_out.get(key) for key in keys], count)
    null = np.array([[draw.values.get(key, np.nan) for key in keys] for draw in drawn])
    parts = [
        Evidence(table, _shifted(null, value, keys), left_out, sizes, np.full((len(drawn[1:]), len(keys)), np.nan))
    ]
    turning = [k for k, (job, _, _) in enumerate(keys) if MEASURES[job.name].matching] if drawn else []
    for side in "xy" if turning else "":
        parts.append(_excess(table, keys, turning, side, found, drawn, parts[0]))
    if turning:
        parts.append(_shared(table, keys, turning[: n * n], found, drawn, parts[0]))
    whole = _stack(parts)
    return whole.only(whole.cells.value.notna())


def _columns(found: list[list[float] | None], count: int) -> NDArray[np.float64]:
    """Stack what was found of each cell, (count, n_cells), NaN where nothing was."""
    return np.array([[np.nan] * count if one is None else one for one in found]).reshape(len(found), count).T


def _shifted(null: NDArray[np.float64], value: NDArray[np.float64], keys: Sequence[Any]) -> NDArray[np.float64]:
    """Take the first row, the score on cropped utterances, to the score on all frames, and the draws along with it."""
    return null[1:] + (value - null[0]) if len(null) else np.empty((0, len(keys)))


def _excess(
    table: pd.DataFrame,
    keys: list[tuple[Job, int, int]],
    rows: list[int],
    side: str,
    found: Found,
    drawn: list[Found],
    scores: Evidence,
) -> Evidence:
    """Return the rows of the excess over random bases of one side."""
    chosen = [(keys[k][0], side, *keys[k][1:]) for k in rows]
    turned = _columns([found.rotated.get(key) for key in chosen], len(drawn) - 1)
    base, value = turned.mean(0), table.value.to_numpy()[rows]
    few = min(len(turned), ROTATIONS_CHANCE)
    counts = [len(turned), *[few] * (len(drawn) - 1)]  # the score on cropped utterances in all bases
    bases = np.array(
        [_columns([draw.rotated.get(key) for key in chosen], n).mean(0) for draw, n in zip(drawn, counts, strict=True)]
    )
    raw = np.array([[draw.values.get(keys[k], np.nan) for k in rows] for draw in drawn])
    cells = table.iloc[rows].reset_index(drop=True)
    cells = cells.assign(value=value - base, measure=cells.measure + f"_excess_{side}")
    # of fewer bases, that is what the groups change: the mean over bases is that of all
    fewer = min(len(turned), ROTATIONS_OUT)
    out = [found.rotated_out.get(key) for key in chosen]
    bases_out = _columns([None if one is None else [float(np.mean(v)) for v in one] for one in out], len(scores.sizes))
    left_out = scores.left_out[:, rows] - (bases_out + base - turned[:fewer].mean(0))
    return Evidence(cells, _shifted(raw - bases, value - base, rows), left_out, scores.sizes, turned - base)


def _shared(
    table: pd.DataFrame,
    keys: list[tuple[Job, int, int]],
    rows: list[int],
    found: Found,
    drawn: list[Found],
    scores: Evidence,
) -> Evidence:
    """Return the rows of the share of neurons matched beyond random bases."""
    pairs = [keys[k][1:] for k in rows]
    nothing = (np.nan, np.full(len(drawn) - 1, np.nan))
    found_value, turned = zip(*(found.shared.get(pair, nothing) for pair in pairs), strict=True)
    null = np.array([[draw.shared.get(pair, nothing)[0] for pair in pairs] for draw in drawn])
    left_out = _columns([found.shared_out.get(pair) for pair in pairs], len(scores.sizes))
    value = np.array(found_value)
    cells = table.iloc[rows].reset_index(drop=True).assign(value=value, measure="neurons_shared")
    return Evidence(cells, _shifted(null, value, pairs), left_out, scores.sizes, np.stack(turned, 1))


def _stack(parts: list[Evidence]) -> Evidence:
    cells = pd.concat([part.cells for part in parts], ignore_index=True)
    null, left_out, turned = (
        np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("null", "left_out", "turned")
    )
    return Evidence(cells, null, left_out, parts[0].sizes, turned)


def _partners(states: list[State], found: Found, drawn: list[Found]) -> pd.DataFrame:
    """Best partners with what mismatches and random bases give for the same neuron."""
    table = partners_table(states, found)
    if not drawn or table.empty:
        return table
    columns: dict[str, list[NDArray]] = {"chance": [], "p": [], "rotated": [], "rotated_high": []}
    for key in partner_keys(states, found):
        size = np.abs(found.partners[key][2])
        alive = np.isfinite(size)
        null = np.array([np.abs(draw.partners[key][2]) for draw in drawn[1:]])[:, alive]
        turned = found.rotated_partners.get(key, np.full((1, len(size)), np.nan))[:, alive]
        columns["chance"].append(null.mean(0))
        columns["p"].append(controls.p_value(size[alive], null))
        columns["rotated"].append(turned.mean(0))
        columns["rotated_high"].append(turned.max(0))
    return table.assign(**{name: np.concatenate(parts) for name, parts in columns.items()})


def attention_evidence(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius", "attention_cka"),
    *,
    rows: int | None = None,
    draws: int = DRAWS,
    groups: int = GROUPS,
    unit: str = "utterance",
    seed: int = 0,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[Evidence, Evidence]:
    """Compare attention as `sslsim.compare_attention` does, with chance level and interval of every score.

    Chance is what a head says of another on a wrong utterance of about the same length, rows cropped alike around their
    query frames: heads that look at a fixed distance whatever is said agree by chance in this sense.

    Parameters
    ----------
    stores, measures, executor, device, progress
        See `sslsim.compare_attention`.
    rows : int, optional
        Query rows of each utterance to compare, evenly spaced among those stored; all by default.
    draws, groups, unit, seed
        See `evidence`.

    Returns
    -------
    layers : Evidence
        Scores of layers.
    heads : Evidence
        Best match of every head in every other checkpoint. Its null is the best match of each draw, whichever head that
        is, so that p allows for the search.
    """
    check_names(measures)
    _check_draws(draws)
    check_attention_measures(measures)
    used = rows_of(stores, rows)
    index = stores[0].index
    lengths = [len(kept) for kept in used]
    left = groups_of(index, lengths, groups, unit) if groups else Utterances(tuple(lengths), 1)
    wrong = controls.Mismatches.of(index["length"].tolist(), draws, seed) if draws else None
    partners = wrong.partners if wrong else []
    options: dict[str, Any] = {"executor": executor, "device": device}
    with tqdm(total=1 + len(partners), desc="controls", disable=not progress, file=sys.stdout, mininterval=1.0) as bar:
        scores, without = head_scores(stores, measures, used, left.members, **options)
        bar.update()
        null = []
        crops = crop_rows(stores, used, wrong.strata) if wrong else []
        cropped = head_scores(stores, measures, used, crops=crops, **options)[0] if crops else scores
        for partner in partners:
            draw = head_scores(stores, measures, used, crops=crops, partner=partner, **options)[0]
            null.append(replace(draw, own=cropped.means))
            bar.update()
    sizes = left.sizes if groups else ()
    without = without if groups else []
    kinds = (HeadScores.layers, HeadScores.best)
    layers, heads = (_of_heads(of, scores, cropped, null, without, sizes) for of in kinds)
    return layers, heads


def _of_heads(
    of: Callable[[HeadScores], pd.DataFrame],
    scores: HeadScores,
    cropped: HeadScores,
    null: list[HeadScores],
    without: list[HeadScores],
    sizes: tuple[int, ...],
) -> Evidence:
    cells = of(scores)
    null_values, left_out = (
        np.array([of(one).value for one in draws], dtype=np.float64).reshape(len(draws), len(cells))
        for draws in ([cropped, *null] if null else [], without)
    )
    null_values = _shifted(null_values, cells.value.to_numpy(np.float64), cells.index)
    whole = Evidence(cells, null_values, left_out, sizes, np.full((len(null), len(cells)), np.nan))
    scored = cells.value.notna() & np.isfinite(null_values).all(0) & np.isfinite(left_out).all(0)
    return whole.only(scored)
