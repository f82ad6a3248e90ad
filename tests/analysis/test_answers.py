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
        ("none", "few single neurons are shared"),
        ("small", "single neurons are slightly shared"),
        ("large", "single neurons are largely shared"),
        ("opposite", "single neurons are shared less than by chance"),
        ("not told from chance", "single neurons are shared no more than chance explains"),
        ("not tested (no interval)", "whether single neurons are shared was not tested, with no interval"),
    ],
)
def test_the_size_is_said_in_words(verdict, said):
    one = sentence(analysis.answer(table(row(verdict=verdict))))
    assert one == f"Between models trained apart, {said} (neuron_count 80.0 % above chance)."
    two = sentence(analysis.answer(table(row(verdict=verdict), row("other family", verdict, 0.7))))
    assert two == f"Between models trained apart, {said} (neuron_count 70.0 to 80.0 % above chance)."


def test_groups_that_differ_have_a_word_each():
    text = sentence(analysis.answer(table(row(), row("other family", "none", 0.02))))
    of = "none: 2.0 % between families; large: 80.0 % between seeds"
    assert text.endswith(f"shared to different degrees (neuron_count above chance, {of}).")
    text = sentence(analysis.answer(table(row(), row("same family", "none", 0.03), row("other family", "none", 0.02))))
    assert "none: 2.0 to 3.0 % within and between families; large" in text


def contrast(what, effect, low, **more):
    claim = f"more alike than with {what}"
    return row(claim=claim, effect=effect, unit="difference", p_floor=np.nan) | {"ci_low": low} | more


@pytest.mark.parametrize(
    ("weights", "heard", "said"),
    [
        ((0.2, 0.1), (0.3, 0.2), "at least 20.0 percentage points above random weights and spectrogram"),
        ((0.01, -0.01), (0.3, 0.2), "not always above random weights"),
        ((0.01, -0.01), (-0.1, -0.2), "not always above random weights or spectrogram"),
    ],
)
def test_what_needs_no_training_is_said_beside_the_size(weights, heard, said):
    rows = [contrast("random weights", *weights), contrast("the spectrogram", *heard)]
    assert analysis.answer(table(row(), *rows)).endswith(f"(neuron_count 80.0 % above chance, {said}).")
    scores = [each | {"measure": "svcca"} for each in (row(unit="difference"), *rows)]
    assert f"svcca 0.80 above chance, {said.replace('20.0 percentage points', '0.20')})" in analysis.answer(
        table(*scores)
    )
    untested = [each | {"ci_low": np.nan} for each in rows]
    assert analysis.answer(table(row(), *untested)).endswith("(neuron_count 80.0 % above chance).")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_table_makes_a_sentence(n):
    for words in itertools.product(WORDS, repeat=n):
        rows = [row(of, word) for of, word in zip(GROUPS, words, strict=False)]
        family = row("f", words[0], -0.2, claim=FAMILIES, unit="difference", p_floor=np.nan)
        for more in ([], [family], [family, family | {"between": "g", "verdict": words[-1]}]):
            sentence(analysis.answer(table(*rows, *more), families="neuron_count"))


def test_families_that_disagree_are_said_to():
    families = [row("hubert", "small", 0.2), row("g", "opposite", -0.1), row("wav2vec2", "none", 0.01)]
    families = [each | {"claim": FAMILIES, "unit": "difference", "p_floor": np.nan} for each in families]
    text = sentence(analysis.answer(table(row(), *families), families="neuron_count"))
    assert text.endswith(", within families by neuron_count HuBERT more (0.20), wav2vec 2.0 equally, g less (-0.10).")
    assert "famil" not in analysis.answer(table(row(), *families[:1]), families="neuron_count")
    assert "famil" not in analysis.answer(table(row(), *families), families="svcca")


def test_numbers_of_neurons_are_those_of_the_claims():
    stores = lineup("a", "a2", "b", "c", "d")
    claims = analysis.neuron_claims(made_of_neurons(stores, lambda name, *_: 0.3), lineage_of(stores))
    told = [claims[(claims.measure == name) & (claims.claim != FAMILIES)] for name in ("neuron_count", "linreg_r2")]
    deep = pd.DataFrame({"measure": "neuron_count", "relation": ["untrained", "same family"], "depth": [0, 0.2]})
    text = sentence(analysis.answer(claims, after=analysis.peak_in_words(deep.assign(value=[0.9, 0.095]))))
    assert numbers(text) == [*ends(told[0], 100, 1), *ends(told[1], 100, 1), 9.5, 0.2]
    assert text.endswith("; shared neurons reach 9.5 % within a family at relative depth 0.2.")


def test_numbers_of_layers_are_those_of_claims_and_depths():
    """A layer's best partner is the last one of two models, and at its own depth in the third."""
    stores = lineup("a", "b", "c", n_layers=3)

    def level(name, x, i, y, j):
        return 0.5 + (0.1 * (i == j) if "c" in (x, y) else 0.1 * j)

    evidence = made(stores, ["svcca", "cca"], level)
    depths = analysis.best_partner_depths(evidence.pairs, ["svcca"], ["a", "b", "c"])
    depths = depths.set_index("relation")
    assert depths.searches.to_dict() == {"same family": 6, "other family": 12}
    assert depths.last_layer.round(3).to_dict() == {"same family": 1, "other family": 0.333}
    assert depths.same_depth.round(3).to_dict() == {"same family": 0.333, "other family": 1}
    assert depths.value_of_best.to_numpy() == pytest.approx([0.7, 0.6], abs=0.02)
    assert depths.value_at_depth.to_numpy() == pytest.approx([0.6, 0.6], abs=0.02)
    claims = layer_claims(evidence, ["svcca", "cca"], lineage_of(stores))
    text = sentence(analysis.answer(claims, after=analysis.depth_in_words(depths.reset_index())))
    first = claims[claims.measure == "svcca"]
    assert numbers(text) == ends(first[first.claim != FAMILIES])
    assert text.endswith("; by svcca 78 % match best there.")
    other = depths.reset_index().assign(measure="cca", same_depth=[0.5, 0.2])  # of 6 and of 12 searches: 0.3
    both = pd.concat([depths.reset_index(), other])
    assert analysis.depth_in_words(both) == "; by measure 30 to 78 % match best there"


def test_attention_is_said_to_be_uniform_before_it_is_said_to_agree():
    stores = lineup("a", "c", "twin")
    claims = attention_claims(made(stores, ["pearson"], lambda *_: 0.5))
    profile = pd.DataFrame({"model": ["a", "a", "c", "twin"], "entropy": [0.9, 0.98, 0.7, 1.0]})
    text = sentence(analysis.answer(claims, before=analysis.entropy_in_words(profile, ["a", "c"])))
    begins = "Attention is almost uniform (entropy 0.94 of 1) but in c (0.70); between models trained apart, beyond "
    assert text.startswith(f"{begins}position, heads are largely alike (pearson ")
    least = claims[claims.p_floor.isna()].effect.min().round(2)
    assert numbers(text)[2:] == [*ends(claims[claims.p_floor.notna()]), *[least] * ("at least" in text)]
    assert analysis.entropy_in_words(profile, ["c"]) == ""


@pytest.mark.parametrize("seed", [True, False])
def test_finetuning_says_what_is_left_by_model_and_how_far_attention_moved(seed):
    stores = lineup("a", *(["a2"] if seed else []), "a-ctc", "c", n_layers=3)
    evidence = made(stores, ["linreg", "pearson"], lambda name, *_: 0.6)
    claims = finetuning_claims(evidence, PAIRS, ["linreg", "pearson"])
    changed = pd.DataFrame({"measure": ["linreg"] * 3 + ["neuron_count"] * 3, "depth": [0, 0.5, 1] * 2})
    changed = changed.assign(pretrained="a", finetuned="a-ctc", value=[0.9, 0.7, 0.5, 0.859, 0.99, 0.016])[::-1]
    entropy = pd.Series({"a": 0.97, "a-ctc": 0.87, "c": 0.5})
    text = sentence(analysis.finetuning_answer(claims, changed, entropy))
    assert text.startswith("From first to last layer, 86 to 2 % (a-ctc) of neurons keep a partner; ")
    assert text.endswith("; its entropy changed by -0.10.")
    moved = claims[(claims.claim == "the last layer moved further than another seed") & (claims.measure == "pearson")]
    assert numbers(text) == [*ends(moved), -0.1] if seed else [-0.1]
    assert ("attention moved" in text) == seed
    text = sentence(
        analysis.finetuning_answer(claims[claims.measure == "linreg"], changed[changed.measure == "linreg"])
    )
    assert text == "From first to last layer, 90 to 50 % (a-ctc) of linreg is left."


def test_made_evidence_of_all_measures_answers_all_pages():
    """Few mismatches and no interval, as a quick look has them."""
    stores = lineup("a", "c")
    evidence = made_of_neurons(stores, lambda *_: 0.5, [*OF_NEURONS, "svcca", "pearson"])
    few = type(evidence)(evidence.pairs, evidence.null[:2], evidence.left_out[:0], (), evidence.rotated[:2])
    for of in (analysis.neuron_claims, layer_claims, attention_claims):
        assert " was not tested, with too few mismatches" in sentence(analysis.answer(of(few)))
