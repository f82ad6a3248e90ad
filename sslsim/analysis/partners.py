"""The best partners of single neurons and heads: the strongest, how many share one, and what chance would give."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from sslsim.activations.selection import LayerView, layer_views, lengths_of
from sslsim.activations.store import ActivationStore
from sslsim.analysis.layers import measured, separate_at_same_depth
from sslsim.analysis.preferences import PAIR, traces
from sslsim.encoders.lineage import RELATIONS, SEPARATE
from sslsim.measures.diagnostics import LAGS, autocorrelation, chance_max_corr, effective_frames
from sslsim.measures.moments import moments
from sslsim.measures.random_basis import FALSE_SHARE, in_bases, neuron_count, neuron_p
from sslsim.parallel import results
from sslsim.significance.evidence import Evidence, Resampling
from sslsim.significance.jackknife import blocks_of, jackknife_interval


def strongest(partners: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """Return the `n` best of a table of best partners between models trained apart, each pair once; neurons by size."""
    between = partners[partners.relation.isin(SEPARATE)]
    key = abs if "neuron_x" in between else None
    return _once(between.sort_values("value", key=key, ascending=False)).head(n).reset_index(drop=True)


def _once(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those that name the two sides of an earlier one the other way round."""
    unit = "neuron" if "neuron_x" in pairs else "head"
    x, y = (zip(*(pairs[f"{key}_{side}"] for key in ("model", "layer", unit)), strict=True) for side in "xy")
    return pairs[~pd.Series([*map(frozenset, zip(x, y, strict=True))], pairs.index).duplicated()]


def with_intervals(
    partners: pd.DataFrame, stores: Sequence[ActivationStore], *, frames: int | None = None, resampling: Resampling
) -> pd.DataFrame:
    """Add ci_low and ci_high to the correlations of chosen pairs of neurons, by the jackknife on Fisher's z.

    A pair chosen for its height is a little too high, and its interval with it. `frames` and `resampling` are those of
    the evidence that the pairs come from. Without blocks nothing is added.
    """
    if not resampling.blocks:
        return partners
    views = layer_views(stores, frames)
    rows = slice(None) if views[0].frames is None else views[0].frames
    left = blocks_of(stores[0].index, lengths_of(views), resampling.blocks, resampling.block_by)
    ends = []
    for pair in partners.to_dict("records"):
        x, y = (trace[rows] for trace in traces(pair, stores))
        without = [np.corrcoef(x[~mask], y[~mask])[0, 1] for mask in left.masks]
        z = np.arctanh(np.clip([np.corrcoef(x, y)[0, 1], *without], -1 + 1e-12, 1 - 1e-12))
        ends.append(np.tanh(jackknife_interval(z[0], z[1:], left.sizes)))
    low, high = np.reshape(ends, (-1, 2)).T
    return partners.assign(ci_low=low, ci_high=high)


def one_to_many(partners: pd.DataFrame) -> pd.DataFrame:
    """Say whether neurons have a partner that no other has, or many share few, by relation.

    Columns: relation, neurons (with a best partner), exclusive (share whose partner is no other's of their model),
    mutual (share that are, in the layers compared, their partner's best), most_to_one (most with one partner).
    """
    sharing = partners.groupby(["model_x", *PAIR[3:]]).neuron_x.transform("size")
    there = pd.MultiIndex.from_frame(partners[[*PAIR[3:], *PAIR[:3]]])
    mutual = pd.MultiIndex.from_frame(partners[PAIR]).isin(there)
    groups = partners.assign(sharing=sharing, exclusive=sharing == 1, mutual=mutual).groupby("relation", sort=False)
    columns = {"neurons": ("exclusive", "size"), "exclusive": ("exclusive", "mean"), "mutual": ("mutual", "mean")}
    out = groups.agg(**columns, most_to_one=("sharing", "max"))
    return out.reindex([r for r in RELATIONS if r in out.index]).reset_index()


def with_partner(evidence: Evidence, stores: Sequence[ActivationStore], frames: int | None = None) -> pd.DataFrame:
    """List the neurons that neuron_count counts between layers at the same depth of models trained apart.

    Columns: relation, `PAIR` (a neuron and its best partner in the other layer), value (their correlation), rotated
    and p_rotation (mean of its best in random bases of that layer, and p there). The evidence is as in `chance_levels`.
    """
    views, pairs = {view.label: view for view in layer_views(stores, frames)}, []
    for relation, part in separate_at_same_depth(measured(evidence, "neuron_count")):
        named = part.pairs[["model_x", "layer_x", "model_y", "layer_y"]].itertuples(index=False)
        pairs += [(relation, views[x, i], views[y, j]) for x, i, y, j in named]
    rows = [row for some in results(_counted, pairs) for row in some]
    return pd.DataFrame(rows, columns=["relation", *PAIR, "value", "rotated", "p_rotation"])


def _counted(relation: str, x: LayerView, y: LayerView) -> list[tuple]:
    """Rows of the neurons of a layer that `neuron_count` counts in another."""
    m = moments(x, y)
    (best, at), size = m.correlation.abs().max(-1), in_bases(m).size
    p, level = neuron_p(m, best), FALSE_SHARE * neuron_count(m)  # of Benjamini and Hochberg
    found = ((p <= level) & m.x.alive & (level > 0)).nonzero()[:, 0].tolist()
    numbers = ((i, int(at[i])) for i in found)
    return [(relation, *x.label, i, *y.label, j, *map(float, (m.correlation[i, j], size[i], p[i]))) for i, j in numbers]


def chance_levels(evidence: Evidence, stores: Sequence[ActivationStore], frames: int | None = None) -> pd.DataFrame:
    """Three chance levels of max_corr side by side, for layers at the same depth of models trained apart.

    Columns: relation, frames, effective_frames (median over neurons and layers, from the correlation of each neuron
    with itself in time), extreme_value (what a maximum over independent neurons reaches on so many), mismatched,
    rotated (in random bases), value. The evidence is of max_corr and max_corr_in_bases, from these stores and frames.
    """
    views = layer_views(stores, frames)
    layers, lengths, n = {view.label: view for view in views}, lengths_of(views), len(views[0])
    lags = max(1, int(LAGS * (n / stores[0].n_frames)))
    auto = cache(lambda label: autocorrelation(layers[label], lengths, lags))  # of layers that take part
    rows = []
    for relation, part in separate_at_same_depth(evidence):
        scored, rotated = measured(part, "max_corr"), measured(part, "max_corr_in_bases").estimate()
        whole, effective, floors = scored.estimate(), [], []
        for pair in scored.pairs.itertuples():
            x, y = auto((pair.model_x, pair.layer_x)), auto((pair.model_y, pair.layer_y))
            per_neuron = np.median(effective_frames(x, y, n), axis=1)
            effective.append(np.median(per_neuron))
            floors.append(chance_max_corr(per_neuron, y.shape[1]).mean())
        row = {"relation": relation, "frames": n, "effective_frames": float(np.median(effective))}
        row |= {"extreme_value": float(np.mean(floors)), "mismatched": whole.chance}
        rows.append(row | {"rotated": rotated.value, "value": whole.value})
    return pd.DataFrame(rows)


def matched_heads(best: pd.DataFrame, profile: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """Say what the best-matched heads of models trained apart look at, both sides: the `n` furthest above chance.

    `best` has matches of one measure, of the heads' table of `sslsim.attention_evidence`; `profile`: `describe_heads`.
    """
    chosen = best[best.relation.isin(SEPARATE)].assign(above=lambda t: t.value - t.chance)
    numbers = [name for name in ("value", "ci_low", "ci_high", "chance", "p") if name in chosen]
    columns = ["relation", "model_x", "layer_x", "head_x", "model_y", "layer_y", "head_y", *numbers]
    out = _once(chosen.sort_values("above", ascending=False)).head(n)[columns]
    for side in "xy":
        of = profile[["model", "layer", "head", "distance", "diagonality"]].add_suffix(f"_{side}")
        out = out.merge(of, on=[f"model_{side}", f"layer_{side}", f"head_{side}"], how="left")
    return out
