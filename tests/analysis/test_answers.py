"""Answers: each number in them is one of the table, and each is a sentence whatever the table says."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from grids import lineup, made
from test_claims import OF_NEURONS, PAIRS, lineage_of, made_of_neurons

from sslsim import analysis
from sslsim.analysis.claims import CLAIM_COLUMNS, FAMILIES, SIZES, attention_claims, finetuning_claims, layer_claims

OF = "neurons with a partner beyond chance"
GROUPS = ["other seed", "same family", "other family"]
WORDS = [
    *SIZES,
    "none",
    "opposite",
    "not told from chance",
    "not tested (no interval)",
    "not tested (too few mismatches)",
]


def row(between="other seed", verdict="large", effect=0.8, **more):
    """Make a claim on neurons."""
    known = {"claim": "single neurons are shared", "between": between, "measure": "neuron_count", "unit": "share"}
    known |= {"effect": effect, "ci_low": effect - 0.01, "ci_high": effect + 0.01, "p": 1 / 21, "p_of": "mismatches"}
    return known | {"p_floor": 1 / 21, "control": "chance", "verdict": verdict} | more


def table(*rows):
    return pd.DataFrame(rows)[CLAIM_COLUMNS]


def sentence(text):
    """Return it if it is one sentence: a capital, one stop at its end, brackets in pairs, nothing left to fill in."""
    assert re.fullmatch(r"[A-Z].*[a-z0-9%)]\.", text)
    assert not re.search(r"\. [A-Z]|nan|None|  |[ (][,;:.)]|, ;|: ;|::", text)
    assert text.count("(") == text.count(")")
    return text


def numbers(text):
    return [float(each) for each in re.findall(r"(?<![\w.])-?\d+\.\d+", text)]


def ends(rows, scale=1, digits=2):
    """Least and largest effect."""
    effects = np.round(scale * np.sort(rows.effect), digits).tolist()
    return [effects[0], effects[-1]] if len(effects) > 1 else effects


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("none", "single neurons are not shared"),
        ("small", "single neurons are shared to a small degree"),
        ("large", "single neurons are shared to a large degree"),
        ("opposite", "single neurons are shared less than by chance"),
        ("not told from chance", "single neurons are shared no more than chance explains"),
        ("not tested (no interval)", "whether single neurons are shared was not tested, with no interval"),
    ],
)
def test_the_size_is_said_in_words(verdict, said):
    one = sentence(analysis.answer(table(row(verdict=verdict))))
    assert one == f"Between models trained apart, {said} ({OF}: 80.0 % with another seed)."
    two = sentence(analysis.answer(table(row(verdict=verdict), row("other family", verdict, 0.7))))
    assert two == f"Between models trained apart, {said} ({OF}: 70.0 % between families to 80.0 % with another seed)."


def test_groups_that_differ_have_a_word_each():
    text = sentence(analysis.answer(table(row(), row("other family", "none", 0.02))))
    of = "2.0 % between families (none) and 80.0 % with another seed (large)"
    assert text.endswith(f"shared to different degrees, {OF}: {of}.")
    alone = sentence(analysis.answer(table(row("other model"))))
    assert alone.endswith("between models without a family).")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_table_makes_a_sentence(n):
    for words in itertools.product(WORDS, repeat=n):
        rows = [row(of, word) for of, word in zip(GROUPS, words, strict=False)]
        family = row("f", words[0], -0.2, claim=FAMILIES, unit="difference", p_floor=np.nan)
        for more in ([], [family], [family, family | {"between": "g", "verdict": words[-1]}]):
            sentence(analysis.answer(table(*rows, *more)))


def test_families_that_disagree_are_said_to():
    families = [row("f", "small", 0.2), row("g", "opposite", -0.1), row("h", "none", 0.01)]
    families = [each | {"claim": FAMILIES, "unit": "difference", "p_floor": np.nan} for each in families]
    assert sentence(analysis.answer(table(row(), *families))).endswith(
        "; held against two families, by neuron_count, models of f are more alike (0.20), models of g are less alike "
        "(-0.10) and models of h are about as alike (0.01)."
    )
    assert "families" not in analysis.answer(table(row(), *families[:1]))


def test_numbers_of_neurons_are_those_of_the_claims():
    stores = lineup("a", "a2", "b", "c", "d")
    claims = analysis.neuron_claims(made_of_neurons(stores, lambda name, *_: 0.3), lineage_of(stores))
    told = [claims[(claims.measure == name) & (claims.claim != FAMILIES)] for name in ("neuron_count", "linreg_r2")]
    assert numbers(sentence(analysis.answer(claims))) == [*ends(told[0], 100, 1), *ends(told[1], 100, 1)]


def test_numbers_of_layers_are_those_of_claims_and_depths():
    """A layer's best partner is the last one of two models, and at its own depth in the third."""
    stores = lineup("a", "b", "c", n_layers=3)

    def level(name, x, i, y, j):
        return 0.5 + (0.1 * (i == j) if "c" in (x, y) else 0.1 * j)

    evidence = made(stores, ["svcca", "cca"], level)
    depths = analysis.best_partner_depths(evidence.pairs, ["svcca"], ["a", "b", "c"])
    depths = depths.set_index("relation")
    assert depths.layers.to_dict() == {"same family": 6, "other family": 12}
    assert depths.last_layer.round(3).to_dict() == {"same family": 1, "other family": 0.333}
    assert depths.same_depth.round(3).to_dict() == {"same family": 0.333, "other family": 1}
    assert depths.value_of_best.to_numpy() == pytest.approx([0.7, 0.6], abs=0.02)
    assert depths.value_at_depth.to_numpy() == pytest.approx([0.6, 0.6], abs=0.02)
    claims = layer_claims(evidence, ["svcca", "cca"])
    text = sentence(analysis.answer(claims, after=analysis.depth_in_words(depths.reset_index())))
    first = claims[claims.measure == "svcca"]
    families = first[first.claim == FAMILIES].effect.round(2).tolist()
    assert numbers(text) in ([*ends(first[first.claim != FAMILIES]), *more] for more in ([], families))
    where = "is at its relative depth in 78 % of cases and the last of its model in 56 %."
    assert text.endswith(f"; by svcca the layer of another model that is most like a layer {where}")


def test_attention_is_said_to_be_uniform_before_it_is_said_to_agree():
    stores = lineup("a", "c", "twin")
    claims = attention_claims(made(stores, ["pearson"], lambda *_: 0.5))
    profile = pd.DataFrame({"model": ["a", "a", "c", "twin"], "entropy": [0.9, 0.98, 0.7, 1.0]})
    text = sentence(analysis.answer(claims, before=analysis.entropy_in_words(profile, ["a", "c"])))
    begins = "Attention is almost uniform in 1 of 2 models (mean entropy of their heads 0.94, where 1 is uniform); "
    assert text.startswith(
        f"{begins}between models trained apart, beyond position, heads are alike to a large degree ("
    )
    assert numbers(text)[1:] == ends(claims[claims.p_floor.notna()])


@pytest.mark.parametrize("seed", [True, False])
def test_finetuning_is_counted_by_claim_and_by_layer(seed):
    stores = lineup("a", *(["a2"] if seed else []), "a-ctc", "c", n_layers=3)

    def level(name, x, i, y, j):
        return {"svcca": 0.9 - 0.2 * i, "linreg": 0.6}[name] if {x, y} == {"a", "a-ctc"} else 0.6

    evidence = made(stores, ["svcca", "linreg"], level)
    claims = finetuning_claims(evidence, PAIRS, ["svcca", "linreg"])
    changed = pd.DataFrame({"measure": ["svcca"] * 3 + ["linreg"] * 3, "finetuned": "a-ctc", "depth": [0, 0.5, 1] * 2})
    changed["value"] = [0.9, 0.7, 0.5, 0.5, 0.6, 0.6]
    text = sentence(analysis.finetuning_answer(claims, changed))
    assert numbers(text) == [number for _, part in claims.groupby("claim") for number in ends(part)]
    first = "the last layer moved more than the first in 1 of 2 comparisons ("
    assert first in text
    assert ("the last layer moved further than another seed in 1 of 2 comparisons (" in text) == seed
    assert text.endswith("; the last layer is the one least like its origin in 1 of 2.")
    alone = sentence(analysis.finetuning_answer(claims[claims.measure == "svcca"], changed[:3]))
    assert "in 1 of 1 comparisons (0." in alone


def test_made_evidence_of_all_measures_answers_all_pages():
    """Few mismatches and no interval, as a quick look has them."""
    stores = lineup("a", "c")
    evidence = made_of_neurons(stores, lambda *_: 0.5, [*OF_NEURONS, "svcca", "pearson"])
    few = type(evidence)(evidence.pairs, evidence.null[:2], evidence.left_out[:0], (), evidence.rotated[:2])
    for of in (analysis.neuron_claims, layer_claims, attention_claims):
        assert " was not tested, with too few mismatches" in sentence(analysis.answer(of(few)))
