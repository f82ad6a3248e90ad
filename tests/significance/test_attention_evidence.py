"""Evidence of attention: wrong utterances aligned at their query frames, blocks left out, each built here by hand."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from sslsim.comparison.heads import HeadScores, compare_attention
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError
from sslsim.measures.attention import attention_cka, attention_similarity
from sslsim.measures.products import Utterances
from sslsim.significance.attention import attention_evidence
from sslsim.significance.evidence import Resampling
from sslsim.significance.nulls import Mismatches
from sslsim.speech.positions import positions, stride_for

HOW = Resampling(permutations=3, blocks=4)
BARE = Resampling(permutations=0, blocks=0)
AUDIO = (31, 40, 25, 33, 28, 37, 30, 26)
LONG = tuple(4 * length for length in 3 * AUDIO)
MEASURES = ["pearson", "js", "frobenius", "frobenius_published", "attention_cka"]
HEADS = MEASURES[:3]
LABELS = [(model, layer, head) for model in "ab" for layer in (1, 2) for head in range(2)]


@dataclass(frozen=True)
class Made:
    """What `sslsim` asks of a store with attention: two layers of two heads."""

    checkpoint: Checkpoint
    maps: list[np.ndarray]  # of each utterance, (layers, heads, rows, T)
    index: pd.DataFrame
    frame_key: str = "made"
    attention_layers: int = 2
    layer_numbers: range = range(3)
    n_heads: int = 2
    site: str = "hidden"
    unit: str = "frame"

    @property
    def name(self):
        return self.checkpoint.name

    def attention(self, layer, u):
        return self.maps[u][layer - 1]

    def query_rows(self, u):
        return positions(int(self.index.length[u]), 4)


def make(name, maps, lengths, *, of=None):
    """Return a store whose attention is ``maps(u, T, queries)``, (layers, heads, rows, T), brought to sum 1."""
    index = pd.DataFrame({"length": lengths, "speaker": "s"})
    index["n_rows"] = [len(positions(length, 4)) for length in lengths]
    store = Made(Checkpoint(name, "made", family=name), [], index)
    for u, number in enumerate(of if of is not None else range(len(lengths))):
        weights = maps(number, lengths[u], store.query_rows(u)).astype("f4")
        store.maps.append(weights / weights.sum(-1, keepdims=True))
    return store


def looks(kind, seed):
    """Return maps of two layers of two heads that look at one place, at the same content, or nowhere; all noisy."""

    def maps(u, t, queries):
        rng = np.random.default_rng([seed, u])
        noise, keys, far = rng.random((2, 2, len(queries), t)), np.arange(t), np.reshape([1, 2, 3, 4], (2, 2, 1, 1))
        away = {"start": keys, "end": t - 1 - keys, "before": keys - queries[:, None] + far}
        away["after"] = keys - queries[:, None] - far
        said = np.random.default_rng([77, u]).gamma(0.2, size=(2, 2, 1, t))
        weights = {"content": said + 1e-3, "noise": 0.0}
        return (weights[kind] if kind in weights else np.exp(-np.abs(away[kind]) / far)) + 0.2 * noise

    return maps


@pytest.fixture(scope="module")
def stores():
    return [make(name, looks("content", seed), AUDIO) for seed, name in enumerate("ab")]


def quiet(stores, measures=MEASURES, how=HOW, **options):
    return attention_evidence(stores, measures, resampling=how, device="cpu", **options)


def test_scores_are_those_of_a_comparison(stores):
    layers, heads = quiet(stores)
    table, best = compare_attention(stores, MEASURES, device="cpu")
    pd.testing.assert_frame_equal(layers.pairs, table, rtol=0, atol=1e-12)
    pd.testing.assert_frame_equal(heads.pairs, best, rtol=0, atol=1e-12)
    assert layers.null.shape == (3, 5 * 16)
    assert heads.null.shape == (3, 4 * 8)  # heads have no attention_cka


def test_left_out_is_that_without_the_utterances(stores):
    layers, heads = quiet(stores)
    made = Utterances(tuple(stores[0].index.n_rows), 4)
    assert layers.sizes == heads.sizes == made.sizes
    for g, gone in enumerate(made.members):
        kept = [u for u in range(8) if u not in gone]
        lengths = [AUDIO[u] for u in kept]
        fewer = [make(name, looks("content", seed), lengths, of=kept) for seed, name in enumerate("ab")]
        table, best = compare_attention(fewer, MEASURES, device="cpu")
        np.testing.assert_allclose(layers.left_out[g], table.value, rtol=0, atol=1e-6)
        np.testing.assert_allclose(heads.left_out[g], best.value, rtol=0, atol=1e-6)


def test_blocks_of_speakers(stores):
    by_speaker = Resampling(permutations=0, blocks=4, block_by="speaker")
    said_by = list("abcabcab")
    several = [replace(s, index=s.index.assign(speaker=said_by)) for s in stores]
    assert quiet(several, ["pearson"], by_speaker)[0].sizes == (24, 22, 15)
    with pytest.raises(SslsimError, match="1 speaker with frames; an interval needs at least 2"):
        quiet(stores, how=by_speaker)


def test_fewer_rows_are_at_common_positions_among_the_stored(stores):
    layers, _ = quiet(stores, ["pearson", "attention_cka"], BARE, rows=4)
    stored = stores[0].index.n_rows
    rows = [positions(n, stride_for(stored, 4 * 8)) for n in stored]
    a, b = ([s.attention(2, u)[:, rows[u]] for u in range(8)] for s in stores)
    at = "model_x == 'a' and layer_x == 2 and model_y == 'b' and layer_y == 2"
    row = layers.pairs.query(f"measure == 'pearson' and {at}")
    assert row.value.item() == pytest.approx(attention_similarity("pearson", a, b).max(1).mean(), abs=1e-6)
    assert row.n_frames.item() == sum(map(len, rows))
    row = layers.pairs.query(f"measure == 'attention_cka' and {at}")
    assert row.value.item() == pytest.approx(attention_cka(a, b), abs=1e-6)
    whole = quiet(stores, ["pearson"], BARE, rows=100)[0].pairs
    pd.testing.assert_frame_equal(whole, compare_attention(stores, ["pearson"], device="cpu")[0])


def mismatched(stores, partner, name):
    """Score every head on each utterance with every head on its partner, written out; all are of one length."""
    maps = [np.concatenate([s.attention(i, u) for s in stores for i in (1, 2)]) for u in range(len(partner))]
    means = attention_similarity(name, maps, [maps[v] for v in partner])
    means = np.triu(means) + np.triu(means, 1).T  # the side that comes first keeps its utterances
    return HeadScores({name: means}, LABELS)


@pytest.mark.parametrize("name", HEADS)
def test_chance_is_the_best_match_on_wrong_utterances(name):
    """Where all utterances are of one length, nothing is cropped."""
    stores = [make(store, looks("content", seed), (30,) * 8) for seed, store in enumerate("ab")]
    layers, heads = quiet(stores, [name])
    for k, partner in enumerate(Mismatches.of([30] * 8, 3, 0).partners):
        expected = mismatched(stores, partner, name)
        of_layers, of_heads = expected.values()
        same = np.ones(16, bool) if name != "js" else (layers.pairs.layer_x == layers.pairs.layer_y).to_numpy()
        np.testing.assert_allclose(layers.null[k, same], of_layers[same], atol=1e-5)
        np.testing.assert_allclose(heads.null[k], of_heads if name != "js" else np.nan, atol=1e-5)


@pytest.mark.parametrize("place", ["start", "end", "before", "after"])
def test_heads_that_look_at_one_place_agree_on_any_utterance(place):
    """So the keys of wrong utterances are aligned at both ends and around the query, whatever their length."""

    def maps(u, t, queries):
        at = {"start": 0, "end": t - 1, "before": queries - 1, "after": queries + 1}[place]
        return np.tile((np.arange(t) == np.reshape(at, (-1, 1)) + 0 * queries[:, None]).astype(float), (2, 2, 1, 1))

    layers, _ = quiet([make(name, maps, (80, 11, 95, 20, 60)) for name in "ab"], ["pearson", "js"])
    np.testing.assert_allclose(layers.pairs.value, 1, atol=1e-5)
    np.testing.assert_allclose(layers.null[np.isfinite(layers.null)], 1, atol=1e-5)


def across(evidence, measure):
    pairs = evidence.pairs  # at the same depth
    there = (pairs.model_x == "a") & (pairs.model_y == "b") & (pairs.layer_x == pairs.layer_y)
    return evidence.only((pairs.measure == measure) & there)


def significant(kind, seeds, lengths):
    """Count the worlds in which each measure calls layers of two models alike beyond chance."""
    alarms = dict.fromkeys(HEADS, 0)
    for seed in range(seeds):
        stores = [make(name, looks(kind, 2 * seed + k), lengths) for k, name in enumerate("ab")]
        layers, _ = quiet(stores, HEADS, Resampling(permutations=19, blocks=0))
        for name in HEADS:
            alarms[name] += int(across(layers, name).estimate().p <= 0.05)
    return alarms


@pytest.mark.parametrize("lengths", [LONG, (32,) * 24])
def test_heads_that_look_at_one_content_agree_on_what_is_said(lengths):
    assert significant("content", 2, lengths) == dict.fromkeys(HEADS, 2)


@pytest.mark.parametrize("kind", ["start", "end", "before", "after", "noise"])
def test_heads_that_do_not_look_at_content_are_alike_by_chance(kind):
    assert max(significant(kind, 4, LONG).values()) <= 1


def test_chance_of_attention_cka_is_below_what_is_shared(stores):
    pairs = across(quiet(stores, ["attention_cka"], Resampling(permutations=19, blocks=0))[0], "attention_cka")
    assert pairs.null.max() <= 1
    assert pairs.estimate().p == 1 / len(AUDIO)  # as many mismatches as there are other utterances


def test_uniform_maps_do_no_harm():
    def of_head(u, t, queries):
        out = looks("content", 0)(u, t, queries)
        out[0, 1] = 1
        return out

    def of_layer(u, t, queries):
        out = looks("content", 1)(u, t, queries)
        out[1] = 1
        return out

    flat = [make(name, of, AUDIO) for name, of in (("a", of_head), ("b", of_layer))]
    layers, heads = quiet(flat, ["pearson", "js"])
    for found in (layers, heads):
        known = found.null[:, (found.pairs.measure != "js").to_numpy()]
        for values in (found.pairs.value, known, found.left_out):
            assert np.isfinite(values).all()
    assert (heads.pairs.measure == "pearson").sum() == 5  # of eight heads three have no correlation
    assert (heads.pairs.measure == "js").sum() == 8
    gone = (layers.pairs.measure == "pearson") & (layers.pairs.model_x == "b") & (layers.pairs.layer_x == 2)
    assert not gone.any()
    expected = compare_attention(flat, ["pearson", "js"], device="cpu")[0].dropna(subset="value")
    pd.testing.assert_frame_equal(layers.pairs, expected.reset_index(drop=True), rtol=0, atol=1e-12)


def test_utterances_too_short_for_a_query_row_are_left_out(stores):
    shorter = [make(name, looks("content", seed), (*AUDIO, 2)) for seed, name in enumerate("ab")]
    for expected, found in zip(quiet(stores, ["pearson"]), quiet(shorter, ["pearson"]), strict=True):
        pd.testing.assert_frame_equal(found.table(), expected.table())


def test_without_mismatches_or_blocks(stores):
    layers, heads = quiet(stores, ["js"], Resampling(permutations=0, blocks=2))
    assert layers.null.shape == (0, 16)
    assert {"ci_low", "ci_high"} == set(layers.table()) - set(layers.pairs)
    layers, heads = quiet(stores, ["js"], Resampling(permutations=2, blocks=0))
    assert heads.left_out.shape == (0, len(heads.pairs))
    assert heads.sizes == ()
    assert {"chance", "p", "p_t", "mismatches"} == set(heads.table()) - set(heads.pairs)


@pytest.mark.parametrize(("count", "measures"), [(1, ["pearson"]), (2, ["attention_cka"])])
def test_no_best_matches_are_no_evidence(stores, count, measures):
    layers, heads = quiet(stores[:count], measures)
    assert len(layers.pairs)
    assert heads.pairs.empty


@pytest.mark.parametrize(
    ("measures", "options", "message"),
    [
        (["pearson"], {"rows": 0}, "rows is 0; it must be a whole number, 1 or more, or None for all stored"),
        (["pearsn"], {}, r"unknown attention measure 'pearsn'; did you mean 'pearson'\?"),
        (["cca"], {}, "unknown attention measure 'cca'"),
        ("js", {}, "measures is 'js'; give a list of at least one name"),
    ],
)
def test_errors_say_what_failed(stores, measures, options, message):
    with pytest.raises(SslsimError, match=message):
        quiet(stores, measures, **options)


def test_stores_without_attention_or_utterances_to_compare_are_refused(stores):
    with pytest.raises(SslsimError, match="no attention in these stores; extract with queries above 0"):
        quiet([replace(stores[0], attention_layers=0)])
    alone = make("alone", looks("noise", 0), (20,))
    with pytest.raises(SslsimError, match="1 utterance with frames; an interval needs at least 2"):
        quiet([alone])
    with pytest.raises(SslsimError, match="a chance level needs at least 2 utterances to mismatch, got 1"):
        quiet([alone], how=Resampling(blocks=0))
