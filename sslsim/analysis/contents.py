"""What layers hold, how far around a frame they look, and what each block of a model changes.

All of it are comparisons of stores with stores made from them: of labels, of the same frames some steps later, of the
next layer. So every number has the chance level and the interval that `sslsim.evidence` gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.conditions import condition
from sslsim.activations.selection import check_stores
from sslsim.activations.store import ActivationStore, Stores
from sslsim.activations.units import SpanStore, spanned, with_columns
from sslsim.analysis.preferences import labels_if_any
from sslsim.comparison.tables import same_depth
from sslsim.errors import SslsimError, Unanswered, check_whole
from sslsim.significance import run
from sslsim.significance.evidence import Evidence, Resampling, near_only

LAGS = 10  # frames, 200 ms
CKA = "linear_cka_debiased"
OF_LAYER, OF_GIVEN = "of the layer", "of the given"
_WORTH = ["value", "ci_low", "ci_high", "chance", "p"]


def known_of(names: Sequence[str], store: ActivationStore, corpus: Any, marks: pd.DataFrame) -> dict[str, Any]:
    """Return by name what is known of every frame, as `held_against` takes it: kinds of marks, or ``speaker``.

    What the corpus does not tell of two utterances at least, or of one speaker alone, is left out with a word. It is
    Unanswered if nothing is left. For marks and corpus see `sslsim.analysis.labels_if_any`.
    """
    out: dict[str, Any] = {}
    for name in names:
        labels = labels_if_any(marks[marks.kind == name], store, corpus)
        if labels is not None:
            out[name] = np.maximum(labels.codes, -1)  # that an utterance has no marks is no label
        elif name == "speaker" and store.index.speaker.nunique() > 1:
            out[name] = name
        else:
            print(f"{name}: the corpus does not tell it of frames of two utterances", flush=True)
    if not out:
        raise Unanswered(f"the corpus tells none of {', '.join(names)}; give it marks of time (marks.csv) or speakers")
    return out


def held_against(
    stores: Sequence[ActivationStore],
    given: Mapping[str, Any],
    *,
    heard: Sequence[ActivationStore] = (),
    frames: int | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    device: str = "auto",
) -> Evidence:
    """Compare all layers with what is known of every frame, as if each of it were a layer, by linreg_r2.

    `given` are by name what `sslsim.condition` takes: labels of phones, ``"speaker"``, ``"log_mel"``, which needs the
    spectrogram among `heard`. A row (layer, given) says how much of the variance of the layer's neurons a regression on
    the given explains, a row (given, layer) how much of that of the given, of labels an indicator each, a regression on
    the layer does: the mean R2, on the frames that it was fitted on. Chance is that of mismatched utterances.
    """
    if not isinstance(given, Mapping) or not given:
        raise SslsimError(f"given is {given!r}; give by name what is known of every frame, such as {{'phone': codes}}")
    check_stores(stores)
    made = [with_columns(stores[0], name, condition([*stores, *heard], it, frames)) for name, it in given.items()]
    between = [(store.name, name) for store in stores for name in given]
    how: dict[str, Any] = {"frames": frames, "resampling": near_only(resampling), "device": device}
    evidence = run.evidence([*stores, *made], ["linreg_r2"], between=between, **how)
    pairs, first = evidence.pairs, evidence.pairs.model_x.isin(given)
    sides = {name: pairs[f"{name}_x"].where(~first, pairs[f"{name}_y"]) for name in ("model", "layer", "depth")}
    sides |= {"given": pairs.model_x.where(first, pairs.model_y), "share": np.where(first, OF_GIVEN, OF_LAYER)}
    return replace(evidence, pairs=pairs.assign(**sides))


def explained(evidence: Evidence) -> pd.DataFrame:
    """Return `held_against` as a table of layers.

    Columns: given, share (``of the layer`` that the given explains, or ``of the given`` that the layer explains),
    model, layer, depth, value, ci_low, ci_high, chance, p.
    """
    return evidence.table().reindex(columns=["given", "share", "model", "layer", "depth", *_WORTH])


def lag_curves(
    stores: Sequence[ActivationStore],
    pairs: Sequence[tuple[str, str]],
    *,
    measure: str = CKA,
    lags: int = LAGS,
    frames: int | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    device: str = "auto",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare layers of x at each frame with layers of y some frames earlier or later, at the same relative depth.

    `pairs` are of names of stores, each with itself too: that is how slowly a layer changes. Returns two tables. The
    curves: pair, layer (of x), depth, lag (above 0: y is later), value, ci_low, ci_high, chance, p. What they are like,
    a row a pair and layer: peak (the lag at which similarity is largest), width (sum over all lags by the largest, in
    frames) and asymmetry (share of the similarity at other lags that is later, less that which is earlier), each with
    its interval (``peak_low``, ``peak_high``). Stores must have kept all frames; in units lags are of units.
    """
    check_whole("lags", lags, 1)
    named = Stores(stores)
    if not pairs:
        raise Unanswered("no pairs to compare at lags; give pairs of names of checkpoints")
    steps, curves, facts = range(-lags, lags + 1), [], []
    how: dict[str, Any] = {"frames": frames, "resampling": near_only(resampling), "device": device}
    for x, y in pairs:
        at = _shifted(named[x], 0, lags, x), *(_shifted(named[y], k, lags, f"{y} {k:+d}") for k in steps)
        evidence = run.evidence(at, [measure], between=[(x, store.name) for store in at[1:]], **how)
        evidence = evidence.only((evidence.pairs.model_x == x) & same_depth(evidence.pairs))
        lag = evidence.pairs.model_y.str.rpartition(" ")[2].astype(int)
        table = evidence.table().assign(lag=lag, pair=f"{x} and {y}")
        table = table.rename(columns={"layer_x": "layer", "depth_x": "depth"})
        curves.append(table.reindex(columns=["pair", "layer", "depth", "lag", *_WORTH]))
        for key, rows in table.groupby(["pair", "layer", "depth"], sort=False):
            one = evidence.only(table.index.isin(rows.index[np.argsort(rows.lag, kind="stable")]))
            facts.append(dict(zip(["pair", "layer", "depth"], key, strict=True)) | _shape(one, np.array(steps)))
    return pd.concat(curves, ignore_index=True), pd.DataFrame(facts)


def _shifted(store: ActivationStore, by: int, lags: int, name: str) -> SpanStore:
    """Return the store of frames that are so many after those that have `lags` frames on both sides."""
    if store.frame_stride != 1:
        told = f"{store.name} keeps one frame in {store.frame_stride:.1f}"
        raise Unanswered(f"{told}; a lag is counted in frames, extract with frames None")
    places = getattr(store, "places", None)
    places = np.concatenate([np.arange(n) for n in store.index.n_frames]) if places is None else places
    middles, counts = [], []
    for begin, n in zip(store.index.start, store.index.n_frames, strict=True):
        here = places[begin : begin + n]  # what is left out of a row of units is no step of the lag
        whole = np.flatnonzero(here[2 * lags :] - here[: max(n - 2 * lags, 0)] == 2 * lags)
        middles.append(begin + lags + whole)
        counts.append(len(whole))
    if not any(counts):
        told = f"no utterance of {store.name} has more than {2 * lags} rows ({store.unit}) without a gap"
        raise Unanswered(f"{told}, which lags of {lags} on both sides need; give fewer lags, or 0")
    first = np.concatenate(middles) + by
    rows, checkpoint = np.array([first, first + 1]), replace(store.checkpoint, name=name)
    return spanned(store, rows, counts, (store.frame_key, lags), unit=store.unit, checkpoint=checkpoint)


def _shape(evidence: Evidence, lags: NDArray[np.int64]) -> dict[str, float]:
    """Return peak, width and asymmetry of a curve, its rows by lag, with their intervals."""
    of: dict[str, Any] = {"peak": _peak, "width": lambda v: v.sum(-1) / v.max(-1)}
    of["asymmetry"] = lambda v: v @ np.sign(lags) / v[..., lags != 0].sum(-1)
    out: dict[str, float] = {}
    for name, function in of.items():
        estimate = evidence.estimate(function)
        out |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return out


def _peak(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lag at which a curve (..., 2 lags + 1) is highest, between lags by a parabola through three points."""
    top = values.argmax(-1)
    inner = np.clip(top, 1, values.shape[-1] - 2)
    a, b, c = (np.take_along_axis(values, (inner + step)[..., None], -1)[..., 0] for step in (-1, 0, 1))
    bend = a - 2 * b + c
    vertex = np.where(bend < 0, (a - c) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    return np.where(top == inner, inner + vertex, top) - values.shape[-1] // 2


def block_changes(
    stores: Sequence[ActivationStore],
    *,
    measure: str = CKA,
    frames: int | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    device: str = "auto",
) -> pd.DataFrame:
    """Say how much each block of a model changes: how similar its output is to its input.

    Columns: model, layer (number of the block), depth, value (similarity, 1: it changes nothing that the measure sees),
    ci_low, ci_high, and candidate: whether the block is one that could be left out with the least change,
    its interval above that of the middle block of its model (arXiv 2409.16302).
    """
    tables, columns = [], ["model", "layer", "depth", *_WORTH[:3], "candidate"]
    # that a block's output is like its input needs no chance level
    how: dict[str, Any] = {"frames": frames, "resampling": replace(near_only(resampling), permutations=0)}
    for store in (each for each in stores if each.n_layers > 2):
        ends = np.arange(store.n_frames), np.arange(1, store.n_frames + 1)
        counts: list[int] = store.index.n_frames.tolist()
        less: dict[str, Any] = {"n_layers": store.n_layers - 1, "unit": store.unit}
        names = store.name, f"{store.name} after"
        both = [replace(store.checkpoint, name=name) for name in names]
        before, after = (
            spanned(store, np.array(ends), counts, (store.frame_key,), **less, lowest=k, checkpoint=checkpoint)
            for k, checkpoint in enumerate(both)
        )
        evidence = run.evidence([before, after], [measure], between=[names], device=device, **how)
        table = evidence.table()[(evidence.pairs.model_x == store.name).to_numpy()].sort_values("layer_x")
        number = table.layer_x + 1
        table = table.assign(model=store.name, layer=number, depth=number / store.layer_numbers[-1])
        table = table.reindex(columns=columns)
        middle = table.iloc[np.argsort(table.value.to_numpy(), kind="stable")[len(table) // 2]]
        tables.append(table.assign(candidate=table.ci_low > middle.ci_high))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def alike_layers(table: pd.DataFrame, measure: str = CKA, bound: float = 0.9) -> pd.DataFrame:
    """Cut the layers of each model into groups of neighbours, of which each two are similar by `bound` or more.

    From the first layer on, each group takes layers as long as that holds; the table is of `sslsim.compare`. Columns:
    model, first, last, layers (how many), least (similarity of the two that are least alike; 1 for one alone).
    """
    own, rows = table[(table.measure == measure) & (table.model_x == table.model_y)], []
    if own.empty:
        raise SslsimError(f"the table has no {measure} of layers of one model; compare each with itself too")
    for model, pairs in own.groupby("model_x", sort=False):
        grid = pairs.pivot_table(index="layer_x", columns="layer_y", values="value")
        grid, first = np.minimum(grid, grid.T), grid.index.min()
        for layer in [*grid.index[1:], None]:
            if layer is None or grid.loc[first:layer, layer].min() < bound:
                last = grid.index.max() if layer is None else layer - 1
                least = grid.loc[first:last, first:last].to_numpy().min()
                rows.append((model, first, last, last - first + 1, least))
                first = layer
    return pd.DataFrame(rows, columns=["model", "first", "last", "layers", "least"])
