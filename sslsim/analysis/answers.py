"""The answer of a page: one sentence, written from the numbers of its tables, with intervals in parentheses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sslsim.analysis.claims import FAMILIES, NONE, NOT_TOLD, OPPOSITE, SIZES

UNIFORM = 0.9  # normalised entropy from which attention is almost uniform
_NAMES = {
    "neuron_count": "the share of neurons with a partner",
    "linreg_r2": "the variance in the subspace of the other",
}
_GROUPS = {"other seed": "with another seed", "same family": "within a family", "other family": "between families"}
_GROUPS |= {"other model": "between models without a family"}
_ALIKE = dict.fromkeys(SIZES, "more alike") | {NONE: "about as alike", OPPOSITE: "less alike"}


def answer(claims: pd.DataFrame, before: str = "", after: str = "") -> str:
    """Say of the claims on models trained apart how large they are, each by its first measure, and what families add.

    `before` and `after` are clauses to stand around them, of `entropy_in_words` and `depth_in_words`.
    """
    told = claims[claims.between.isin(_GROUPS) & claims.claim.str.contains(" are | is ") & claims.p_floor.notna()]
    told = told.drop_duplicates(["claim", "between"])
    parts = [_told(rows) for _, rows in told.groupby("claim", sort=False)]
    families = claims[(claims.claim == FAMILIES) & (claims.measure == told.measure.iloc[0])].to_dict("records")
    words = [(row["between"], _ALIKE.get(row["verdict"], row["verdict"]), number(row)) for row in families]
    of = [f"those of {family} are {alike}, {how_much}" for family, alike, how_much in words]
    parts += [f"against models of two families, by {told.measure.iloc[0]}, {_list(of)}"] if of else []
    return f"{before}{'b' if before else 'B'}etween models trained apart, {'; '.join(parts)}{after}."


def finetuning_answer(claims: pd.DataFrame, changed: pd.DataFrame) -> str:
    """Say in how many cases each of `finetuning_claims` holds, and by `finetuning_by_layer` the last moved most."""
    parts = []
    for claim, rows in claims.groupby("claim"):  # against another seed first
        ends = rows.sort_values("effect").iloc[[0, -1]].drop_duplicates().to_dict("records")
        of = [f"{number(row)} in {row['between'].split(' to ')[-1]} by {row['measure']}" for row in ends]
        told = f"{claim} in {sum(rows.verdict.isin(SIZES))} of {len(rows)} comparisons"
        parts.append(f"{told} (from {' to '.join(of)})" if len(of) > 1 else f"{told} ({of[0]})")
    least = changed.loc[changed.groupby(["measure", "finetuned"], sort=False).value.idxmin()]
    most = f"the last layer is the one least like its origin in {sum(least.depth == 1)} of {len(least)}"
    return f"In finetuning, for each model and measure by itself, {'; '.join([*parts, most])}."


def entropy_in_words(profile: pd.DataFrame, models: Sequence[str]) -> str:
    """Say how near to uniform the attention of models is, by `describe_heads`, before anything is said of agreement."""
    entropy = profile[profile.model.isin(models)].groupby("model").entropy.mean()
    ends = f"mean entropy of their heads {entropy.min():.2f} to {entropy.max():.2f}, where 1 is uniform"
    return f"Attention is almost uniform in {sum(entropy >= UNIFORM)} of {len(entropy)} models ({ends}); "


def depth_in_words(depths: pd.DataFrame) -> str:
    """Say by the first measure of `best_partner_depths` where the layer that is most similar to a layer lies."""
    first = depths[depths.measure == depths.measure.iloc[0]]
    near, last = (100 * np.average(first[name], weights=first.layers) for name in ("same_depth", "last_layer"))
    place = f"lies at its relative depth in {near:.0f} % of cases and is the last of its model in {last:.0f} %"
    return f"; by {first.measure.iloc[0]} the layer of another model that is most like a layer {place}"


def number(row: Any) -> str:
    """Return an effect in its unit, with its interval where there is one."""
    share, ends = row["unit"] == "share", [row[name] for name in ("effect", "ci_low", "ci_high")]
    effect, low, high = (f"{100 * end:z.1f}" if share else f"{end:z.2f}" for end in ends)
    unit = " %" if share else " times as far" if row["unit"] == "ratio" else ""
    return f"{effect}{unit}" + ("" if np.isnan(ends[1]) else f" ({low} to {high})")


def _told(rows: pd.DataFrame) -> str:
    """Say how large an effect is: in one word, where all groups have the same, or a word a group, and in numbers."""
    claim, word, mixed = rows.claim.iloc[0], rows.verdict.iloc[0], rows.verdict.nunique() > 1
    hows = {size: f"{claim} to a {size} degree" for size in SIZES} | {OPPOSITE: f"{claim} less than by chance"}
    hows[NONE] = claim.replace(" are ", " are not ").replace(" is ", " is not ")
    hows[NOT_TOLD] = f"{claim} no more than chance explains"
    how = f"{claim} to different degrees" if mixed else hows.get(word, f"{claim} to a degree that was {word}")
    each = [f"{number(row)} {_GROUPS[row['between']]}" for row in rows.to_dict("records")]
    each = [f"{text} ({word})" for text, word in zip(each, rows.verdict, strict=True)] if mixed else each
    return f"{how}: beyond chance, {_NAMES.get(rows.measure.iloc[0], rows.measure.iloc[0])} is {_list(each)}"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
