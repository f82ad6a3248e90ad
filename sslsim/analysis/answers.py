"""The answer of a page: one sentence, written from the numbers of its tables, which hold their intervals."""

from collections.abc import Sequence

import pandas as pd

from sslsim.analysis.claims import ALPHA, FAMILIES, FINETUNED, MORE, NONE, NOT_TOLD, OPPOSITE, SIZES, THAN_SEED

UNIFORM = 0.9  # normalised entropy from which attention is almost uniform
_GROUPS = {"other seed": "between seeds", "same family": "within a family", "other family": "between families"}
_GROUPS |= {"other model": "between models without a family"}
_NAMES = {"wav2vec2": "wav2vec 2.0", "hubert": "HuBERT"}  # of families, as papers write them
_DEGREES = {"small": "slightly", "moderate": "moderately", "large": "largely", NONE: "hardly"}
_ALIKE = dict.fromkeys(SIZES, "more") | {OPPOSITE: "less", NONE: "equally"}
_AFTER = {OPPOSITE: " less than by chance", NOT_TOLD: " no more than chance explains"}


def answer(claims: pd.DataFrame, before: str = "", after: str = "", families: str = "") -> str:
    """Say of the claims on models trained apart how large they are, each by its first measure.

    By the measure `families`, if given, each family is named where one is more alike than two and another is not.
    `before` and `after` are clauses to stand around it, of `entropy_in_words`, `depth_in_words` and `peak_in_words`.
    """
    told = claims[claims.between.isin(_GROUPS) & claims.claim.str.contains(" are | is ") & claims.p_floor.notna()]
    told = told.drop_duplicates(["claim", "between"])
    parts = [_told(rows.sort_values("effect", kind="stable"), claims) for _, rows in told.groupby("claim", sort=False)]
    own = claims[(claims.claim == FAMILIES) & (claims.measure == families)].sort_values("effect", ascending=False)
    alike = own.verdict.replace(_ALIKE)
    if alike.nunique() > 1:
        each = zip(own.between.replace(_NAMES), alike, own.effect, strict=True)
        of = ", ".join(f"{name} {how}" + f" ({by:z.2f})" * (how != _ALIKE[NONE]) for name, how, by in each)
        parts[-1] += f", within families by {families} {of}"
    return f"{before}{'b' if before else 'B'}etween models trained apart, {'; '.join(parts)}{after}."


def finetuning_answer(claims: pd.DataFrame, changed: pd.DataFrame, entropy: pd.Series | None = None) -> str:
    """Say by model what is left of its first and last layer, how far attention moved in seeds, and of its entropy.

    What is left, by `finetuning_by_layer`, is the share of neurons with a partner, or the score by the first measure if
    that was not measured; `entropy` is that of the attention of each model, by its name.
    """
    measure = "neuron_count" if (changed.measure == "neuron_count").any() else changed.measure.iloc[0]
    first = changed[changed.measure == measure].sort_values("depth")
    left = ", ".join(f"{_span(v, 100, 0)} % ({name})" for name, v in first.groupby("finetuned", sort=False).value)
    what = "neurons keep a partner" if measure == "neuron_count" else f"{measure} is left"
    parts = [f"From first to last layer, {left} of {what}"]
    moved = claims[(claims.claim == THAN_SEED) & (claims.measure == "pearson")].effect.sort_values()
    if len(moved):
        parts.append(f"attention moved {_span(moved)} times as far as another seed")
    if entropy is not None:
        pairs = first.drop_duplicates("finetuned")
        change = pairs.finetuned.map(entropy) - pairs.pretrained.map(entropy)
        parts.append(f"its entropy changed by {_span(change.sort_values())}")
    return f"{'; '.join(parts)}."


def contents_answer(claims: pd.DataFrame) -> str:
    """Say by `contents_claims` how much of what is given layers tell, and how finetuning changed that."""
    parts = []
    for given, rows in claims.groupby(claims.claim.str.partition(" is in ")[0], sort=False):
        held = rows[rows.claim.str.endswith(" the layers") & rows.effect.notna()]
        pretrained = held[~held.between.str.endswith(FINETUNED)]
        each = [
            f"{100 * row.effect:z.1f} % in {_NAMES.get(row.between, row.between)}"
            + f" ({row.verdict})" * row.verdict.startswith("not ")
            for row in (held if pretrained.empty else pretrained).itertuples()
        ]
        moved = [f"{100 * row.effect:+.1f}" for row in rows[rows.claim.str.endswith(" before finetuning")].itertuples()]
        told = f" (finetuning: {_list(moved)} percentage points)" if moved else ""
        parts += [f"of what {given}s differ in, {_list(each)}{told}"] if each else []
    if parts:
        return f"Layers tell, beyond chance, {'; '.join(parts)}."
    if (claims.effect.isna() & (claims.p_floor <= ALPHA)).any():  # there were mismatches, and left nothing
        return "What layers hold cannot be told from chance on so few frames."
    return "What layers hold was not held against chance."


def entropy_in_words(profile: pd.DataFrame, models: Sequence[str]) -> str:
    """Say how near to uniform the attention of models is, by `describe_heads`, before anything is said of agreement."""
    entropy = profile[profile.model.isin(models)].groupby("model").entropy.mean().sort_values()
    near, rest = entropy[entropy >= UNIFORM], entropy[entropy < UNIFORM]
    but = " but in " * bool(len(rest)) + _list([f"{name} ({value:.2f})" for name, value in rest.items()])
    return f"Attention is almost uniform (entropy {_span(near)} of 1){but}; " if len(near) else ""


def depth_in_words(depths: pd.DataFrame) -> str:
    """Say by all measures of `best_partner_depths` how many layers are most similar to one at their relative depth."""
    weights = depths.searches / depths.groupby("measure").searches.transform("sum")
    near = (depths.same_depth * weights).groupby(depths.measure).sum().sort_values()
    return f"; by {'measure' if len(near) > 1 else near.index[0]} {_span(near, 100, 0)} % match best there"


def peak_in_words(deep: pd.DataFrame) -> str:
    """Say at which relative depth and between which models neuron_count of `along_depth` is largest."""
    top = deep[(deep.measure == "neuron_count") & deep.relation.isin(_GROUPS)].nlargest(1, "value").iloc[0]
    return f"; shared neurons reach {100 * top.value:.1f} % {_GROUPS[top.relation]} at relative depth {top.depth:g}"


def _told(rows: pd.DataFrame, claims: pd.DataFrame) -> str:
    """Say how large an effect is: in one word and from least to most, or a word a group where they differ."""
    claim, measure, share = rows.claim.iloc[0], rows.measure.iloc[0], rows.unit.iloc[0] == "share"
    what = _controls(claims, measure, share) if measure == claims.measure.iloc[0] else ""
    form, unit = ((100, 1), " %") if share else ((1, 2), "")

    def size(effects: pd.Series) -> str:  # of what chance leaves no room for there is none
        return f" {_span(effects.dropna(), *form)}{unit}" if effects.notna().any() else ""

    if rows.verdict.nunique() == 1:
        above = size(rows.effect) and f"{size(rows.effect)} above chance"
        return f"{_how(claim, rows.verdict.iloc[0])} ({measure}{above}{what})"
    groups = [(word, of, _list([_GROUPS[b] for b in of.between])) for word, of in rows.groupby("verdict", sort=False)]
    each = "; ".join(f"{word}:{size(of.effect)} {whom}" for word, of, whom in groups)
    each = each.replace("between families and within a family", "within and between families")
    return f"{claim} to different degrees ({measure} above chance, {each}{what.replace(',', ';', 1)})"


def _how(claim: str, word: str) -> str:
    """Return a claim with the degree to which it holds."""
    if word == NONE and claim.startswith("single neurons"):
        return f"few {claim}"
    if word in _DEGREES:
        return claim.replace(" are ", f" are {_DEGREES[word]} ").replace(" is ", f" is {_DEGREES[word]} ")
    return claim + _AFTER[word] if word in _AFTER else f"whether {claim} was {word.replace(' (', ', with ')[:-1]}"


def _controls(claims: pd.DataFrame, measure: str, share: bool) -> str:
    """Say how far above random weights and the spectrogram all relations are, or above which not all of them are."""
    rows = claims[(claims.measure == measure) & claims.claim.str.startswith(MORE)].dropna(subset="ci_low")
    names = rows.claim.str.removeprefix(MORE).str.removeprefix("the ")
    if others := [*dict.fromkeys(names[rows.ci_low <= 0])]:
        return f", not always above {' or '.join(others)}"
    least = f"{100 * rows.effect.min():.1f} percentage points" if share else f"{rows.effect.min():.2f}"
    return f", at least {least} above {_list([*dict.fromkeys(names)])}" if len(rows) else ""


def _span(ordered: pd.Series, scale: float = 1, digits: int = 2) -> str:
    """Return the first and the last of some numbers."""
    return " to ".join(dict.fromkeys(f"{scale * end:z.{digits}f}" for end in ordered.iloc[[0, -1]]))


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
