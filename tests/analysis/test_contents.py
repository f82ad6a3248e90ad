"""What layers hold, lags and blocks, against worlds in which the truth was planted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter

import sslsim
from sslsim import analysis
from sslsim.activations import Stores
from sslsim.analysis import claims, contents
from sslsim.encoders.lineage import Lineage
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError, Unanswered
from sslsim.significance.evidence import Evidence

LENGTHS = (90, 120, 100, 110, 95, 105) * 4
QUICK = sslsim.Resampling(permutations=20, blocks=8, rotations=0)


def noise(rng, n, k):
    """Return k independent series, each frame of which depends on the one before, of variance 1."""
    return lfilter([0.6], [1, -0.8], rng.standard_normal((n + 50, k)), axis=0)[50:]


def world(tmp_path, name, of, **facts):
    """Return a store of made layers: `of` takes (utterance, frames) to (layers, frames, neurons)."""
    arrays = {f"u{u}": of(u, n) for u, n in enumerate(LENGTHS)}
    return sslsim.from_arrays(name, arrays, tmp_path, **facts)


@pytest.fixture
def codes():
    """Return a label of every frame: phones of 8 frames, another sequence in each utterance."""
    rng = np.random.default_rng(5)
    return [np.repeat(rng.integers(0, 6, n // 8 + 1), 8)[:n] for n in LENGTHS]


def test_a_planted_phone_code_is_found_in_the_layer_that_has_it(tmp_path, codes):
    rng, way = np.random.default_rng(0), np.random.default_rng(1).standard_normal((6, 12))

    def of(u, n):
        told = np.eye(6)[codes[u]] @ way  # its variance is taken to 1, as is that of what else is there
        told = (told - told.mean(0)) / told.std(0)
        return np.stack([noise(rng, n, 12), told + noise(rng, n, 12)])

    model = world(tmp_path, "model", of, family="made")
    random = world(tmp_path, "random", lambda u, n: np.stack([noise(rng, n, 12)] * 2), untrained_seed=0)
    evidence = analysis.held_against([model, random], {"phone": np.concatenate(codes)}, resampling=QUICK)
    held = analysis.explained(evidence).set_index(["model", "share", "layer"]).sort_index()
    layer = held.loc["model", "of the layer"]
    assert layer.value[1] == pytest.approx(0.5, abs=0.06)  # half of its variance
    assert layer.ci_low[1] < layer.value[1] < layer.ci_high[1]
    given = held.loc["model", "of the given"]
    assert given.value[1] > 5 * given.chance[1]
    assert given.p[1] == pytest.approx(1 / 21)
    for share in ("of the layer", "of the given"):
        rest = [held.loc[("model", share, 0)], held.loc[("random", share, 0)], held.loc[("random", share, 1)]]
        assert all(row.value == pytest.approx(row.chance, abs=0.02) for row in rest)
    claims = analysis.contents_claims(evidence, Stores([model, random]).lineage)
    assert claims.claim.tolist() == ["phone is in the layers", "phone is in them more than in random weights"]
    effect = ((given.value - given.chance) / (1 - given.chance)).mean()
    assert claims.effect[0] == pytest.approx(effect, rel=1e-2)
    told = analysis.contents_answer(claims)
    assert told == f"Layers tell, beyond chance, of what phones differ in, {100 * claims.effect[0]:.1f} % in made."


def test_a_planted_lag_is_the_peak(tmp_path):
    rng, late = np.random.default_rng(0), 3
    kept = {u: noise(rng, n + 20, 8) for u, n in enumerate(LENGTHS)}
    x = world(tmp_path, "x", lambda u, n: kept[u][None, 10 : 10 + n])
    y = world(tmp_path, "y", lambda u, n: kept[u][None, 10 - late : 10 - late + n] + 0.2 * noise(rng, n, 8))
    curves, shapes = analysis.lag_curves([x, y], [("x", "y"), ("x", "x"), ("y", "x")], lags=6, resampling=QUICK)
    assert shapes.pair.tolist() == ["x and y", "x and x", "y and x"]
    assert shapes.peak.tolist() == pytest.approx([late, 0, -late], abs=0.1)
    assert (
        (shapes.peak_low < [late, 0, -late] + np.array(0.1)) & (shapes.peak_high > [late, 0, -late] - np.array(0.1))
    ).all()
    assert np.sign(shapes.asymmetry.round(1)).tolist() == [1, 0, -1]
    own = curves[curves.pair == "x and x"].set_index("lag").value
    assert own[0] == pytest.approx(1)
    expected = 0.8 ** np.abs(
        2 * np.arange(-6, 7)
    )  # of such series CKA is the square of what one frame tells of another
    np.testing.assert_allclose(own, expected, atol=0.06)
    assert shapes.width[1] == pytest.approx(expected.sum(), rel=0.1)


def test_what_was_left_out_of_a_row_of_units_is_no_step_of_a_lag(tmp_path):
    """Each second word has no frame: there is none next to another, and nothing to compare at a lag of one."""
    rng, marks = np.random.default_rng(0), []
    arrays = {f"u{u}": noise(rng, 60, 3)[None] for u in range(4)}
    store = sslsim.from_arrays("x", arrays, tmp_path)
    folder = tmp_path / "speech"
    folder.mkdir()
    for u in arrays:
        marks += [(u, "word", "w", 0.1 * k, 0.1 * k + (0.004 if k % 2 and k < 8 else 0.1)) for k in range(12)]
    pd.DataFrame(marks, columns=["id", "kind", "label", "start", "end"]).to_csv(folder / "marks.csv", index=False)
    pd.DataFrame({"path": [f"{u}.wav" for u in arrays]}).to_csv(folder / "manifest.csv", index=False)
    for u in arrays:
        (folder / f"{u}.wav").write_bytes(b"")
    (words,) = sslsim.in_units([store], "word", corpus=folder / "manifest.csv")
    assert words.places.tolist() == 4 * [0, 2, 4, 6, 8, 9, 10, 11]
    shifted = contents._shifted(words, 1, 1, "later")
    assert shifted.index.n_frames.tolist() == 4 * [2]  # words 9 and 10 alone have both neighbours
    np.testing.assert_array_equal(shifted.layer(0)[:2], words.layer(0)[6:8])


def test_a_finetuned_model_is_held_against_those_that_it_began_from_alone():
    models = {"a": 0.4, "b": 0.9, "asr": 0.5}  # b is no origin
    pairs = pd.DataFrame({"measure": "linreg_r2", "model": [*models], "given": "phone", "share": "of the given"})
    values = np.array([*models.values()])
    evidence = Evidence(
        pairs.assign(value=values), np.zeros((20, 3)), np.tile(values, (5, 1)), (1,) * 5, np.empty((0, 3))
    )
    known = [Checkpoint("a", "x", family="f"), Checkpoint("b", "x", family="f")]
    known.append(Checkpoint("asr", "x", family="f", finetuned_from="a"))
    table = claims.contents_claims(evidence, Lineage(tuple(known))).set_index("claim")
    row = table.loc["phone is in them more than it was before finetuning"]
    assert row.effect == pytest.approx(0.1)
    assert row.control == "f, where they began: 0.400"


def test_where_chance_leaves_nothing_no_share_is_told():
    pairs = pd.DataFrame({"measure": "linreg_r2", "value": [0.999, 0.998]})
    evidence = Evidence(pairs, np.full((20, 2), 0.998), np.full((5, 2), 0.9985), (1,) * 5, np.empty((0, 2)))
    row = claims._above_chance("the subspace is shared", "other seed", evidence, "linreg_r2", best=1.0)
    assert np.isnan(row["effect"])
    assert claims._verdict(row, claims.BOUNDS) == "not tested (too few frames)"
    words = claims._table(
        [row, row | {"between": "other family", "effect": 0.4, "ci_low": 0.3, "ci_high": 0.5, "p": 0.01}],
        claims.BOUNDS,
        "",
    )
    assert analysis.answer(words[:1]) == (
        "Between models trained apart, whether the subspace is shared was not tested, with too few frames (linreg_r2)."
    )
    each = "moderate: 40.0 % between families; not tested (too few frames): between seeds"
    assert f"(linreg_r2 above chance, {each})." in analysis.answer(words)
    told = words.assign(claim="phone is in the layers", effect=np.nan)
    assert analysis.contents_answer(told) == "What layers hold cannot be told from chance on so few frames."


def test_lags_need_all_frames(make_store):
    some = make_store(frames=(30, 40), kept=20)
    with pytest.raises(Unanswered, match=r"^model keeps one frame in \d\.\d; a lag is counted in frames, extract with"):
        analysis.lag_curves([some], [("model", "model")])
    with pytest.raises(
        Unanswered, match=r"^no utterance of short has more than 20 rows \(frame\) without a gap, which lags"
    ):
        analysis.lag_curves([make_store("short", frames=(12, 20))], [("short", "short")])
    with pytest.raises(SslsimError, match="^no checkpoint 'modle' here; did you mean 'model'"):
        analysis.lag_curves([some], [("modle", "model")])
    with pytest.raises(Unanswered, match="^no pairs to compare at lags; give pairs"):
        analysis.lag_curves([some], [])
    with pytest.raises(SslsimError, match="^lags is 0; it must be a whole number, 1 or more$"):
        analysis.lag_curves([some], [("model", "model")], lags=0)


def test_a_block_that_turns_changes_nothing_and_one_that_adds_noise_does(tmp_path):
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]

    def of(u, n):
        first = noise(rng, n, 10)
        second = first @ turn
        return np.stack([first, second, second + noise(rng, n, 10), noise(rng, n, 10)])

    model = world(tmp_path, "model", of)
    options = {"measure": "linear_cka_debiased_raw", "resampling": QUICK}
    changes = analysis.block_changes([model, world(tmp_path, "flat", lambda u, n: noise(rng, n, 3)[None])], **options)
    assert changes.layer.tolist() == [1, 2, 3]
    assert changes.model.unique().tolist() == ["model"]
    # of independent neurons of one variance, and noise as large beside each: half of the variance is left
    assert changes.value.tolist() == pytest.approx([1, 0.5, 0], abs=0.06)
    assert changes.candidate.tolist() == [True, False, False]
    assert (changes.ci_low <= changes.value).all()


def test_every_block_of_a_deep_model_has_its_interval(tmp_path):
    rng = np.random.default_rng(0)
    model = world(tmp_path, "model", lambda u, n: np.cumsum([noise(rng, n, 3) for _ in range(10)], axis=0))
    changes = analysis.block_changes([model], resampling=replace(QUICK, depths=3))
    assert changes.layer.tolist() == list(range(1, 10))
    assert np.isfinite(changes[["value", "ci_low", "ci_high"]].to_numpy()).all()


def test_layers_are_grouped_as_long_as_each_two_are_alike():
    grid = np.array([[1, 0.95, 0.8, 0.1], [0.95, 1, 0.92, 0.1], [0.8, 0.92, 1, 0.91], [0.1, 0.1, 0.91, 1]])
    rows = [("linear_cka_debiased", "m", i, "m", j, grid[i, j]) for i in range(4) for j in range(4)]
    table = pd.DataFrame(rows, columns=["measure", "model_x", "layer_x", "model_y", "layer_y", "value"])
    groups = analysis.alike_layers(table)
    assert groups.to_numpy().tolist() == [["m", 0, 1, 2, 0.95], ["m", 2, 3, 2, 0.91]]
    assert analysis.alike_layers(table, bound=0.99).layers.tolist() == [1, 1, 1, 1]
    with pytest.raises(SslsimError, match="^the table has no svcca of layers of one model; compare each with itself"):
        analysis.alike_layers(table, "svcca")


def test_what_the_corpus_does_not_tell_is_left_out(make_store, capsys):
    store, marks = make_store(), pd.DataFrame(columns=["id", "kind", "label", "start", "end"])
    two = replace(store, index=store.index.assign(speaker=["a", "b", "a"]))
    assert analysis.known_of(["phone", "speaker"], two, None, marks) == {"speaker": "speaker"}
    assert capsys.readouterr().out == "phone: the corpus does not tell it of frames of two utterances\n"
    with pytest.raises(Unanswered, match="^the corpus tells none of phone, speaker; give it marks of time"):
        analysis.known_of(["phone", "speaker"], store, None, marks)
    with pytest.raises(SslsimError, match="^given is {}; give by name what is known of every frame"):
        analysis.held_against([store], {})


def test_what_is_not_tested_or_finetuned_alone_is_said_so(tmp_path, codes):
    rng, few = np.random.default_rng(0), replace(QUICK, permutations=5)
    facts = {"family": "made", "finetuned_from": "elsewhere"}
    stores = Stores([world(tmp_path, "model", lambda u, n: noise(rng, n, 12)[None], **facts)])

    def answer(resampling):
        evidence = analysis.held_against(stores, {"phone": np.concatenate(codes)}, resampling=resampling)
        return analysis.contents_answer(analysis.contents_claims(evidence, stores.lineage))

    assert answer(few).endswith("% in made, finetuned (not tested (too few mismatches)).")
    assert answer(replace(few, permutations=0)) == "What layers hold was not held against chance."
    random = Stores([world(tmp_path, "random", lambda u, n: noise(rng, n, 12)[None], untrained_seed=0)])
    evidence = analysis.held_against(random, {"phone": np.concatenate(codes)}, resampling=few)
    with pytest.raises(Unanswered, match="^nothing to judge; the evidence needs layers of trained models"):
        analysis.contents_claims(evidence, random.lineage)
    with pytest.raises(SslsimError, match="^nothing to compare: no store given"):
        analysis.held_against([], {"phone": codes[0]})


def test_that_an_utterance_has_no_marks_is_no_label(monkeypatch, make_store):
    codes = np.repeat([0, -1, 1, -2], 10)
    told = analysis.preferences.Labels(("a", "b"), codes)
    monkeypatch.setattr("sslsim.analysis.contents.labels_if_any", lambda *_: told)
    known = analysis.known_of(["phone"], make_store(frames=(30, 10)), None, pd.DataFrame({"kind": ["phone"]}))
    assert set(known["phone"].tolist()) == {-1, 0, 1}
