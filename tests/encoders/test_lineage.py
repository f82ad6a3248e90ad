from __future__ import annotations

import itertools

import pytest

from sslsim.encoders.lineage import RELATIONS, Lineage
from sslsim.encoders.lineup import Checkpoint, select
from sslsim.errors import Unanswered


def lineage(**fields):
    """Return the lineage of checkpoints, given by name the fields that are not empty."""
    return Lineage(tuple(Checkpoint(name, **{"source": "x", **more}) for name, more in fields.items()))


MANY = lineage(
    a={"family": "f"},
    a2={"family": "f", "seed_of": "a"},
    a3={"family": "f", "seed_of": "a"},
    ctc={"family": "f", "finetuned_from": "a"},
    b={"family": "f"},
    c={"family": "g"},
    d={},
    twin={"family": "f", "untrained_seed": 0},
    mel={"source": "log-mel"},
    a4={"family": "f", "seed_of": "a", "series": "s", "step": 9},
    early={"family": "f", "series": "s", "step": 1},
    codes={"times": (0.04, 0.08)},
)


def test_every_relation():
    expected = {
        ("a", "a2"): "other seed",
        ("a2", "a3"): "other seed",
        ("a", "ctc"): "counterpart",
        ("a2", "ctc"): "same family",  # of another run, and finetuned
        ("a", "b"): "same family",
        ("ctc", "c"): "other family",
        ("a", "d"): "other model",  # of no named family
        ("a", "twin"): "untrained",
        ("twin", "mel"): "spectrogram",
        ("twin", "twin"): "same model",
        ("a4", "early"): "other step",
        ("a", "early"): "same family",
        ("a", "codes"): "arrays",  # of no family, else they would be of a model
        ("mel", "codes"): "arrays",
    }
    for (x, y), relation in expected.items():
        assert MANY.relation(x, y) == MANY.relation(y, x) == relation, (x, y)
    names = [checkpoint.name for checkpoint in MANY.checkpoints]
    assert {MANY.relation(x, y) for x, y in itertools.product(names, names)} == set(RELATIONS)
    assert [name for name in names if not MANY.trained(name)] == ["twin", "mel", "codes"]


def test_a_chain_of_finetuning_is_one_lineage():
    chain = lineage(a={}, b={"finetuned_from": "a"}, c={"finetuned_from": "b"}, d={}, e={"finetuned_from": "gone"})
    assert [chain.relation(*pair) for pair in ("ac", "bc", "cd", "de")] == ["counterpart"] * 2 + ["other model"] * 2
    siblings = lineage(x={"finetuned_from": "gone"}, y={"finetuned_from": "gone"})
    assert siblings.relation("x", "y") == "counterpart"


def test_what_was_finetuned_from_a_step_of_a_training_is_not_apart_from_its_end():
    steps = [Checkpoint(f"s{n}", "x", family="f", series="s", step=n) for n in (1, 2, 3)]
    asr = Checkpoint("asr", "x", family="f", finetuned_from="s2")
    again = Checkpoint("again", "x", family="f", finetuned_from="asr")
    other = Checkpoint("other", "x", family="g")
    chosen = Lineage(tuple(select([again, asr, *steps, other], [])))
    assert [each.name for each in chosen.checkpoints] == ["again", "asr", "s2", "s3", "other"]
    assert chosen.finetuned_pairs() == [("asr", "again"), ("s2", "asr")]
    pairs = [("asr", "s3"), ("again", "s3"), ("again", "asr"), ("asr", "other")]
    assert [chosen.relation(*pair) for pair in pairs] == ["counterpart"] * 3 + ["other family"]
    assert chosen.trained_apart() == ["s3", "other"]
    assert Lineage(tuple(select([asr, *steps, other], ["asr", "other"]))).trained_apart() == ["asr", "other"]


def test_pairs_are_in_the_order_of_the_checkpoints():
    assert MANY.trained_apart() == ["a", "a2", "a3", "b", "c", "d", "twin", "mel", "a4", "codes"]
    assert MANY.typical_pairs() == [("a", "a2"), ("a", "b"), ("a", "c"), ("a", "d"), ("a", "twin"), ("a", "codes")]
    assert MANY.finetuned_pairs() == [("a", "ctc")]
    assert MANY.finetuned_family() == ["a", "a2", "a3", "ctc", "a4"]
    assert MANY.finetuning_pairs() == [("a", "a2"), ("a", "a3"), ("a", "ctc"), ("a", "c"), ("a", "a4")]
    some = lineage(t={"untrained_seed": 1}, a={}, m={"source": "log-mel"})
    assert some.with_trained() == [("t", "a"), ("a", "m")]


def test_questions_that_the_checkpoints_leave_open():
    for checkpoints in (
        lineage(a={}),
        lineage(a={}, b={"finetuned_from": "a"}),
        lineage(a={}, t={"untrained_seed": 1}),
    ):
        with pytest.raises(Unanswered, match="no two models trained apart among a.*; choose two trained checkpoints"):
            checkpoints.trained_apart()
    siblings = lineage(x={"finetuned_from": "gone"}, y={"finetuned_from": "gone"})
    with pytest.raises(Unanswered, match="no two models trained apart among x, y"):
        siblings.trained_apart()
    with pytest.raises(Unanswered, match="no finetuned counterpart among w, h; choose checkpoints of which one"):
        lineage(w={}, h={}).finetuned_pairs()
