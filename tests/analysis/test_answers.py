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
        ("none", "single neurons are hardly shared"),
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
        "; held against two families, models of f are more alike (neuron_count +20.0 points), models of g are less "
        "alike (neuron_count -10.0 points) and models of h are about as alike (neuron_count +1.0 points)."
    )
    assert "families" not in analysis.answer(table(row(), *families[:1]))
    named = families[0] | {"between": "hubert", "measure": "svcca"}, families[2] | {"between": "hubert"}
    assert sentence(analysis.answer(table(row(), families[1], *named))).endswith(
        "models of HuBERT are more alike (svcca 0.20) and about as alike (neuron_count +1.0 points)."
    )


def test_controls_stand_beside_the_size():
    more = {"claim": "more neurons have a partner than in random weights", "unit": "difference", "p_floor": np.nan}
    rows = [row(), row("other family", effect=0.7), row(effect=0.5, **more), row("other family", effect=-0.4, **more)]
    text = sentence(analysis.answer(table(*rows)))
    assert text.endswith("to 80.0 % with another seed; beyond random weights -40.0 to +50.0 points).")
    like = {
        "measure": "svcca",
        "claim": "more alike than with the spectrogram",
        "unit": "difference",
        "p_floor": np.nan,
    }
    rows = [row(measure="svcca", unit="difference"), row(effect=0.25, **like)]
    assert "(svcca beyond chance: 0.80 with another seed; beyond the spectrogram 0.25)" in analysis.answer(table(*rows))


def test_where_most_neurons_have_a_partner():
    deep = pd.DataFrame(
        {"measure": "neuron_count", "relation": ["other seed", "untrained", "same family"], "depth": 0.2}
    )
    text = analysis.count_in_words(deep.assign(value=[0.01, 0.9, 0.094]))
    assert text == "; most have a partner at relative depth 0.2: 9 % of neurons within a family"
    assert analysis.count_in_words(deep.assign(measure="svcca", value=1.0)) == ""


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
    assert depths.searches.to_dict() == {"same family": 6, "other family": 12}
    assert depths.last_layer.round(3).to_dict() == {"same family": 1, "other family": 0.333}
    assert depths.same_depth.round(3).to_dict() == {"same family": 0.333, "other family": 1}
    assert depths.value_of_best.to_numpy() == pytest.approx([0.7, 0.6], abs=0.02)
    assert depths.value_at_depth.to_numpy() == pytest.approx([0.6, 0.6], abs=0.02)
    claims = layer_claims(evidence, ["svcca", "cca"])
    text = sentence(analysis.answer(claims, after=analysis.depth_in_words(depths.reset_index())))
    first = claims[claims.measure == "svcca"]
    families = first[first.claim == FAMILIES].effect.round(2).tolist()
    assert numbers(text) in ([*ends(first[first.claim != FAMILIES]), *more] for more in ([], families))
    where = "is at its relative depth in 78 % (svcca) of cases and the last of its model in 56 % (svcca) of cases."
    assert text.endswith(f"; the layer of another model that is most like a layer {where}")
    two = pd.concat([depths.reset_index(), depths.reset_index().assign(measure="cca", same_depth=0.1, last_layer=0.9)])
    assert analysis.depth_in_words(two).endswith(
        "in 10 % (cca) to 78 % (svcca) of cases and the last of its model in 56 % (svcca) to 90 % (cca) of cases"
    )


def test_attention_is_said_to_be_uniform_before_it_is_said_to_agree():
    stores = lineup("a", "c", "twin")
    claims = attention_claims(made(stores, ["pearson"], lambda *_: 0.5))
    profile = pd.DataFrame({"model": ["a", "a", "c", "twin"], "entropy": [0.9, 0.98, 0.7, 1.0]})
    text = sentence(analysis.answer(claims, before=analysis.entropy_in_words(profile, ["a", "c"])))
    begins = "Attention is almost uniform in 1 of 2 models (mean entropy of their heads 0.94, where 1 is uniform; "
    begins += "0.70 in c); "
    assert text.startswith(
        f"{begins}between models trained apart, beyond position, heads are alike to a large degree ("
    )
    more = claims[claims.claim.str.startswith("more ")]
    assert numbers(text)[2:] == [*ends(claims[claims.p_floor.notna()]), *ends(more)]


@pytest.mark.parametrize("seed", [True, False])
@pytest.mark.parametrize("name", ["neuron_count", "linreg"])
def test_finetuning_is_told_by_what_is_left_and_how_far_the_last_layer_moved(seed, name):
    stores = lineup("a", *(["a2"] if seed else []), "a-ctc", "c", n_layers=3)

    def level(name, x, i, y, j):
        return {"svcca": 0.9 - 0.2 * i, "linreg": 0.6}[name] if {x, y} == {"a", "a-ctc"} else 0.6

    claims = finetuning_claims(made(stores, ["svcca", "linreg"], level), PAIRS, ["svcca", "linreg"])
    changed = pd.DataFrame({"measure": name, "finetuned": ["a-ctc"] * 3 + ["b-ctc"] * 3, "depth": [1, 0.5, 0] * 2})
    changed["value"] = [0.02, 0.7, 0.86, 0.5, 0.6, 1.0]
    text = sentence(analysis.finetuning_answer(claims, changed))
    what = "neurons that still have a partner" if name == "neuron_count" else name
    left = f"After finetuning, {what}, first layer to last: 86 to 2 % (a-ctc) and 100 to 50 % (b-ctc)"
    if not seed:
        assert text == f"{left}."
        return
    far = claims[claims.unit == "ratio"].sort_values("effect")
    least, most = (f"{row.effect:.2f}{{}} ({row.measure}, a-ctc)" for row in far.itertuples())
    moved = f"{least.format('')} to {most.format(' times as far')}"
    assert text == f"{left}; the last layer moved {moved} from its origin as another seed lies."
    alone = sentence(analysis.finetuning_answer(claims[claims.measure == "svcca"], changed[:3]))
    assert "moved 1.26 times as far (svcca, a-ctc) from" in alone


def test_the_entropy_before_and_after_finetuning():
    profile = pd.DataFrame({"model": ["a", "a-ctc", "a-ctc"], "entropy": [0.97, 0.9, 0.8]})
    told = analysis.entropy_change_in_words(profile, [("a", "a-ctc"), ("c", "c-ctc")])
    assert told == "; the entropy of attention, where 1 is uniform, went from 0.97 to 0.85 (a-ctc)"
    assert analysis.entropy_change_in_words(profile, [("c", "c-ctc")]) == ""


def test_made_evidence_of_all_measures_answers_all_pages():
    """Few mismatches and no interval, as a quick look has them."""
    stores = lineup("a", "c")
    evidence = made_of_neurons(stores, lambda *_: 0.5, [*OF_NEURONS, "svcca", "pearson"])
    few = type(evidence)(evidence.pairs, evidence.null[:2], evidence.left_out[:0], (), evidence.rotated[:2])
    for of in (analysis.neuron_claims, layer_claims, attention_claims):
        assert " was not tested, with too few mismatches" in sentence(analysis.answer(of(few)))
