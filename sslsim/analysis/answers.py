"""The answer of a page: one sentence, written from the numbers of its tables, which hold their intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sslsim.analysis.claims import FAMILIES, FINETUNED, NONE, NOT_TOLD, OPPOSITE, SIZES

FURTHER = " times as far"
UNIFORM = 0.9  # normalised entropy from which attention is almost uniform
_FAMILIES = {"wav2vec2": "wav2vec 2.0", "hubert": "HuBERT", "wavlm": "WavLM", "whisper": "Whisper"}
_NAMES = {"neuron_count": "neurons with a partner", "linreg_r2": "variance in it"}
_GROUPS = {"other seed": "with another seed", "same family": "within a family", "other family": "between families"}
_GROUPS |= {"other model": "between models without a family"}
_ALIKE = dict.fromkeys(SIZES, "more alike") | {NONE: "about as alike", OPPOSITE: "less alike"}


def answer(claims: pd.DataFrame, before: str = "", after: str = "") -> str:
    """Say of the claims on models trained apart how large they are, each by its first measure.

    Families are named where one is more alike than two and another is not. `before` and `after` are clauses to stand
    around it, of `entropy_in_words` and `depth_in_words`.
    """
    told = claims[claims.between.isin(_GROUPS) & claims.claim.str.contains(" are | is ") & claims.p_floor.notna()]
    told = told.drop_duplicates(["claim", "between"])
    parts = [_told(rows) for _, rows in told.groupby("claim", sort=False)]
    families = claims[(claims.claim == FAMILIES) & (claims.measure == told.measure.iloc[0])].to_dict("records")
    alike = {row["between"]: _ALIKE.get(row["verdict"], row["verdict"]) for row in families}
    if len({*alike.values()}) > 1:
        of = [f"models of {row['between']} are {alike[row['between']]} ({number(row)})" for row in families]
        parts.append(f"held against two families, by {told.measure.iloc[0]}, {_list(of)}")
    return f"{before}{'b' if before else 'B'}etween models trained apart, {'; '.join(parts)}{after}."


def finetuning_answer(claims: pd.DataFrame, changed: pd.DataFrame) -> str:
    """Say in how many cases each of `finetuning_claims` holds, and by `finetuning_by_layer` the last moved most."""
    parts = []
    for claim, rows in claims.groupby("claim"):  # against another seed first
        ends = dict.fromkeys(number(row) for row in rows.sort_values("effect").iloc[[0, -1]].to_dict("records"))
        span = " to ".join(ends).replace(f"{FURTHER} to", " to")
        parts.append(f"{claim} in {sum(rows.verdict.isin(SIZES))} of {len(rows)} comparisons ({span})")
    least = changed.loc[changed.groupby(["measure", "finetuned"], sort=False).value.idxmin()]
    most = f"the last layer is the one least like its origin in {sum(least.depth == 1)} of {len(least)}"
    return f"Of each finetuned model by each measure, {'; '.join([*parts, most])}."


def contents_answer(claims: pd.DataFrame) -> str:
    """Say by `contents_claims` how much of what is given layers tell, and how finetuning changed that."""
    parts = []
    for given, rows in claims.groupby(claims.claim.str.partition(" is in ")[0], sort=False):
        held = rows[rows.claim.str.endswith(" the layers") & ~rows.between.str.endswith(FINETUNED)]
        each = [f"{number(row)} in {family_name(row['between'])}" for row in held.to_dict("records")]
        moved = [f"{100 * row.effect:+.1f}" for row in rows[rows.claim.str.endswith(" before finetuning")].itertuples()]
        told = f" (finetuning: {_list(moved)} points)" if moved else ""
        parts.append(f"of what {given}s differ in, {_list(each)}{told}")
    return f"Layers tell, beyond chance, {'; '.join(parts)}."


def family_name(family: str) -> str:
    """Return how a family is called in prose."""
    return _FAMILIES.get(family, family)


def entropy_in_words(profile: pd.DataFrame, models: Sequence[str]) -> str:
    """Say how near to uniform the attention of models is, by `describe_heads`, before anything is said of agreement."""
    entropy = profile[profile.model.isin(models)].groupby("model").entropy.mean()
    near = entropy[entropy >= UNIFORM]
    some = near if len(near) else entropy
    ends = " to ".join(dict.fromkeys((f"{some.min():.2f}", f"{some.max():.2f}")))
    what = f"mean entropy of their heads {ends}, where 1 is uniform"
    return f"Attention is almost uniform in {len(near) or 'none'} of {len(entropy)} models ({what}); "


def depth_in_words(depths: pd.DataFrame) -> str:
    """Say by the first measure of `best_partner_depths` where the layer that is most similar to a layer lies."""
    first = depths[depths.measure == depths.measure.iloc[0]]
    near, last = (100 * np.average(first[name], weights=first.layers) for name in ("same_depth", "last_layer"))
    place = f"is at its relative depth in {near:.0f} % of cases and the last of its model in {last:.0f} %"
    return f"; by {first.measure.iloc[0]} the layer of another model that is most like a layer {place}"


def number(row: Any) -> str:
    """Return an effect in its unit."""
    if row["unit"] == "share":
        return f"{100 * row['effect']:z.1f} %"
    return f"{row['effect']:z.2f}" + FURTHER * (row["unit"] == "ratio")


def _told(rows: pd.DataFrame) -> str:
    """Say how large an effect is: in one word and from least to most, or a word a group where they differ."""
    claim, word = rows.claim.iloc[0], rows.verdict.iloc[0]
    hows = {size: f"{claim} to a {size} degree" for size in SIZES} | {OPPOSITE: f"{claim} less than by chance"}
    hows[NONE] = claim.replace(" are ", " are not ").replace(" is ", " is not ")
    hows[NOT_TOLD] = f"{claim} no more than chance explains"
    how = hows.get(word, f"whether {claim} was {word.replace(' (', ', with ').rstrip(')')}")
    rows = rows.sort_values("effect", kind="stable")
    each = [f"{number(row)} {_GROUPS[row['between']]}" for row in rows.to_dict("records")]
    what = f"{_NAMES.get(rows.measure.iloc[0], rows.measure.iloc[0])} beyond chance"
    if rows.verdict.nunique() > 1:
        each = [f"{text} ({verdict})" for text, verdict in zip(each, rows.verdict, strict=True)]
        return f"{claim} to different degrees, {what}: {_list(each)}"
    return f"{how} ({what}: {' to '.join(dict.fromkeys((each[0], each[-1])))})"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
