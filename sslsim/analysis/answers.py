"""The answer of a page: one sentence, written from the numbers of its tables, which hold their intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sslsim.analysis.claims import FAMILIES, FINETUNED, NONE, NOT_TOLD, OPPOSITE, SIZES

FURTHER = " times as far"
UNIFORM = 0.9  # normalised entropy from which attention is almost uniform
_NAMES = {"neuron_count": "neurons with a partner", "linreg_r2": "variance in it"}
_POINTS = (*_NAMES, "neuron_excess")  # measures whose differences are percentage points
_GROUPS = {"other seed": "with another seed", "same family": "within a family", "other family": "between families"}
_GROUPS |= {"other model": "between models without a family"}
_ALIKE = dict.fromkeys(SIZES, "more alike") | {NONE: "about as alike", OPPOSITE: "less alike"}
_FAMILIES = {"wav2vec2": "wav2vec 2.0", "hubert": "HuBERT", "wavlm": "WavLM", "whisper": "Whisper"}


def answer(claims: pd.DataFrame, before: str = "", after: str = "") -> str:
    """Say of the claims on models trained apart how large they are, each by its first measure.

    Families are named where one is more alike than two and another is not. `before` and `after` are clauses to stand
    around it, of `entropy_in_words`, `depth_in_words` and `count_in_words`.
    """
    told = claims[claims.between.isin(_GROUPS) & claims.claim.str.contains(" are | is ") & claims.p_floor.notna()]
    told = told.drop_duplicates(["claim", "between"])
    parts = [_told(rows, claims) for _, rows in told.groupby("claim", sort=False)]
    parts += _families(claims[claims.claim == FAMILIES])
    return f"{before}{'b' if before else 'B'}etween models trained apart, {'; '.join(parts)}{after}."


def finetuning_answer(claims: pd.DataFrame, changed: pd.DataFrame, after: str = "") -> str:
    """Say by `finetuning_by_layer` what is left in the first and last layer, and by the claims how far the last moved.

    What is left is told by neuron_count, or else the first measure.
    """
    name = "neuron_count" if (changed.measure == "neuron_count").any() else changed.measure.iloc[0]
    left = changed[changed.measure == name].sort_values("depth").groupby("finetuned", sort=False).value
    ends = [f"{_percent(of.iloc[0])} to {_percent(of.iloc[-1])} % ({model})" for model, of in left]
    what = "neurons that still have a partner" if name == "neuron_count" else name
    parts = [f"{what}, first layer to last: {_list(ends)}"]
    seeds = claims[claims.claim.str.endswith(" than another seed")].sort_values("effect").to_dict("records")
    if seeds:
        each = [
            f"{number(row)} ({row['measure']}, {row['between'].rpartition(' ')[2]})" for row in (seeds[0], seeds[-1])
        ]
        moved = " to ".join(dict.fromkeys(each)).replace(FURTHER, "", len(seeds) > 1)
        parts.append(f"the last layer moved {moved} from its origin as another seed lies")
    return f"After finetuning, {'; '.join(parts)}{after}."


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
    entropy = profile[profile.model.isin(models)].groupby("model", sort=False).entropy.mean()
    near, rest = entropy[entropy >= UNIFORM], entropy[entropy < UNIFORM]
    some = near if len(near) else entropy
    ends = " to ".join(dict.fromkeys((f"{some.min():.2f}", f"{some.max():.2f}")))
    what = f"mean entropy of their heads {ends}, where 1 is uniform"
    if len(near) and 0 < len(rest) < 3:
        what += f"; {_list([f'{value:.2f} in {model}' for model, value in rest.items()])}"
    return f"Attention is almost uniform in {len(near) or 'none'} of {len(entropy)} models ({what}); "


def entropy_change_in_words(profile: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> str:
    """Say what finetuning did to the mean entropy of heads, by `describe_heads`, where 1 is uniform attention."""
    mean = profile.groupby("model").entropy.mean()
    each = [f"{mean[a]:.2f} to {mean[b]:.2f} ({b})" for a, b in pairs if a in mean and b in mean]
    return f"; the entropy of attention, where 1 is uniform, went from {_list(each)}" if each else ""


def count_in_words(deep: pd.DataFrame) -> str:
    """Say by `along_depth` where most neurons have a partner."""
    some = deep[(deep.measure == "neuron_count") & deep.relation.isin(_GROUPS)].dropna(subset="value")
    if some.empty:
        return ""
    top = some.loc[some.value.idxmax()]
    share = f"{_percent(top.value)} % of neurons {_GROUPS[top.relation]}"
    return f"; most have a partner at relative depth {top.depth:g}: {share}"


def depth_in_words(depths: pd.DataFrame) -> str:
    """Say by `best_partner_depths`, measure by measure, where the layer that is most similar to a layer lies."""
    of = depths.groupby("measure", sort=False)
    shares = {name: of.apply(lambda rows, n=name: np.average(rows[n], weights=rows.searches)) for name in _PLACES}
    told = [f"{place} in {_span(shares[name].to_dict())} of cases" for name, place in _PLACES.items()]
    return f"; the layer of another model that is most like a layer is {' and '.join(told)}"


_PLACES = {"same_depth": "at its relative depth", "last_layer": "the last of its model"}


def number(row: Any) -> str:
    """Return an effect in its unit."""
    if row["unit"] == "share":
        return f"{100 * row['effect']:z.1f} %"
    if row["unit"] == "difference" and row["measure"] in _POINTS:
        return f"{100 * row['effect']:+z.1f} points"
    return f"{row['effect']:z.2f}" + FURTHER * (row["unit"] == "ratio")


def _told(rows: pd.DataFrame, claims: pd.DataFrame) -> str:
    """Say how large an effect is: in one word and from least to most, or a word a group where they differ."""
    claim, word, measure = rows.claim.iloc[0], rows.verdict.iloc[0], rows.measure.iloc[0]
    hows = {size: f"{claim} to a {size} degree" for size in SIZES} | {OPPOSITE: f"{claim} less than by chance"}
    hows[NONE] = claim.replace(" are ", " are hardly ").replace(" is ", " is hardly ")
    hows[NOT_TOLD] = f"{claim} no more than chance explains"
    how = hows.get(word, f"whether {claim} was {word.replace(' (', ', with ').rstrip(')')}")
    rows = rows.sort_values("effect", kind="stable")
    each = [f"{number(row)} {_GROUPS[row['between']]}" for row in rows.to_dict("records")]
    what = f"{_NAMES.get(measure, measure)} beyond chance"
    if rows.verdict.nunique() > 1:
        each = [f"{text} ({verdict})" for text, verdict in zip(each, rows.verdict, strict=True)]
        return f"{claim} to different degrees, {what}: {_list(each)}{_controls(claims, measure, ', ')}"
    return f"{how} ({what}: {' to '.join(dict.fromkeys((each[0], each[-1])))}{_controls(claims, measure, '; ')})"


def _controls(claims: pd.DataFrame, measure: str, mark: str) -> str:
    """Say how far a measure is beyond models that were not trained, and the spectrogram, in all relations."""
    some = claims[(claims.measure == measure) & claims.claim.str.startswith("more ") & claims.between.isin(_GROUPS)]
    told = []
    for control, rows in some.groupby(some.claim.str.extract(r" (?:with|in) (.*)$")[0], sort=False):
        ordered = rows.sort_values("effect", kind="stable").to_dict("records")
        ends = list(dict.fromkeys(number(row) for row in (ordered[0], ordered[-1])))
        told.append(f"beyond {control} {' to '.join([*(end.removesuffix(' points') for end in ends[:-1]), ends[-1]])}")
    return mark * bool(told) + ", ".join(told)


def _families(rows: pd.DataFrame) -> list[str]:
    """Say which families are more alike than two, where that is not the same of all by all measures."""
    words = rows.verdict.map(lambda verdict: _ALIKE.get(verdict, verdict))
    if rows.between.nunique() < 2 or words.nunique() < 2:
        return []
    told = []
    for family, of in rows.assign(word=words).groupby("between", sort=False):
        each = []
        for word, some in of.groupby("word", sort=False):
            numbers = [f"{row['measure']} {number(row)}" for row in some.to_dict("records")]
            each.append(f"{word} ({', '.join(numbers)})")
        told.append(f"models of {family_name(str(family))} are {_list(each)}")
    return [f"held against two families, {_list(told)}"]


def _span(shares: dict[str, float]) -> str:
    """Return the least and the largest of shares by measure."""
    order: Callable[[str], float] = shares.__getitem__
    ends = dict.fromkeys((min(shares, key=order), max(shares, key=order)))
    return " to ".join(f"{_percent(shares[name])} % ({name})" for name in ends)


def _percent(share: float) -> str:
    return f"{100 * share:z.0f}"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
