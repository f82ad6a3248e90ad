"""Head-to-head attention similarity against written-out definitions and scipy."""

import ckatorch
import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

import sslsim
from sslsim.errors import SslsimError
from sslsim.measures import attention
from sslsim.measures.attention import attention_cka, attention_similarity


def softmax_maps(rng, heads, rows, keys, sharpness=2.0):
    return torch.softmax(torch.as_tensor(sharpness * rng.standard_normal((heads, rows, keys))), 2).numpy()


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(0)
    sizes = [(9, 9), (4, 23), (17, 17)]
    return [softmax_maps(rng, 3, *s) for s in sizes], [softmax_maps(rng, 5, *s) for s in sizes]


def rows_of(maps, head):
    return [row for utterance in maps for row in utterance[head]]


def naive_pearson(a, b, i, j):
    return np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(rows_of(a, i), rows_of(b, j), strict=True)])


def naive_js(a, b, i, j):
    return np.mean([1 - jensenshannon(p, q, base=2) ** 2 for p, q in zip(rows_of(a, i), rows_of(b, j), strict=True)])


def naive_published(a, b, i, j):
    scale = [np.sqrt(u.shape[2] / u.shape[1]) for u in a]
    return np.mean([1 - s * np.linalg.norm(u[i] - v[j]) for u, v, s in zip(a, b, scale, strict=True)])


def naive_bounded(a, b, i, j):
    return np.mean([1 - np.linalg.norm(u[i] - v[j]) / np.sqrt(2 * u.shape[1]) for u, v in zip(a, b, strict=True)])


NAIVE = {
    "pearson": naive_pearson,
    "js": naive_js,
    "frobenius": naive_bounded,
    "frobenius_published": naive_published,
}


@pytest.mark.parametrize("measure", NAIVE)
def test_against_the_definition(measure, maps):
    a, b = maps
    expected = [[NAIVE[measure](a, b, i, j) for j in range(5)] for i in range(3)]
    np.testing.assert_allclose(attention_similarity(measure, a, b), expected, atol=1e-8)
    np.testing.assert_allclose(attention_similarity(measure, b, a), np.transpose(expected), atol=1e-8)
    single = [[m.astype(np.float32) for m in side] for side in maps]
    np.testing.assert_allclose(attention_similarity(measure, *single), expected, atol=1e-5)


@pytest.mark.parametrize("measure", NAIVE)
def test_a_head_with_itself_is_one_and_symmetric(measure, maps):
    own = attention_similarity(measure, maps[1], maps[1])
    np.testing.assert_allclose(np.diag(own), 1, atol=1e-7)
    np.testing.assert_allclose(own, own.T, atol=1e-12)
    if measure != "frobenius_published":
        assert own.min() >= (-1 if measure == "pearson" else 0)


def test_heads_alike_but_for_their_order_match(maps):
    shuffled = [u[[2, 0, 1]] for u in maps[0]]
    scores = attention_similarity("js", maps[0], shuffled)
    assert scores.argmax(1).tolist() == [1, 2, 0]
    assert scores.max(1) == pytest.approx(1, abs=1e-9)


def test_disjoint_heads_score_zero():
    a, b = np.zeros((1, 4, 8)), np.zeros((1, 4, 8))
    a[..., 0], b[..., 1] = 1, 1
    for measure in ("js", "frobenius"):
        assert attention_similarity(measure, [a], [b]) == pytest.approx(0, abs=1e-9)


def test_blocks_of_any_size_agree(maps, monkeypatch):
    whole = attention_similarity("js", *maps)
    monkeypatch.setattr(attention, "BLOCK_CELLS", 5)
    monkeypatch.setattr(attention, "BLOCK_HEADS", 2)
    np.testing.assert_allclose(attention_similarity("js", *maps), whole, atol=1e-12)
    np.testing.assert_allclose(attention_similarity("js", maps[0], maps[0]).diagonal(), 1, atol=1e-12)


def test_sampled_rows_estimate_the_whole_map():
    rng = np.random.default_rng(1)
    a, b = (softmax_maps(rng, 2, 400, 400, sharpness=0.5) for _ in range(2))
    for measure in NAIVE:
        whole = attention_similarity(measure, [a], [b])
        sampled = attention_similarity(measure, [a[:, 4::10]], [b[:, 4::10]])
        np.testing.assert_allclose(sampled, whole, atol=0.05 * max(1, np.abs(whole).max()))


def test_uniform_rows_have_no_correlation_and_are_left_out():
    rng = np.random.default_rng(0)
    a = softmax_maps(rng, 2, 6, 10).astype(np.float32)
    b = a.copy()
    b[0, :3] = np.float32(1) / np.float32(10)
    b[1] = 0.1
    scores = attention_similarity("pearson", [a], [b])
    assert scores[0, 0] == pytest.approx(1, abs=1e-6)  # the mean of the three rows that vary
    assert np.isnan(scores[:, 1]).all()
    assert np.isfinite(attention_similarity("js", [a], [b])).all()


def test_attention_cka_against_its_definition_and_ckatorch(maps):
    a, b = maps
    flat_a, flat_b = (np.hstack([(u - 1 / u.shape[2]).reshape(len(u), -1) for u in side]) for side in maps)
    norm = np.linalg.norm
    expected = norm(flat_a @ flat_b.T) ** 2 / (norm(flat_a @ flat_a.T) * norm(flat_b @ flat_b.T))
    assert attention_cka(a, b) == pytest.approx(expected, abs=1e-12)
    assert attention_cka(b, a) == pytest.approx(expected, abs=1e-12)
    assert attention_cka(a, a) == pytest.approx(1, abs=1e-12)
    # with one utterance the mean of a row is the mean of all cells, so it is plain linear CKA
    cells = [torch.as_tensor(side[1].reshape(len(side[1]), -1).T.copy()) for side in maps]
    assert attention_cka(a[1:2], b[1:2]) == pytest.approx(float(ckatorch.cka_base(*cells)), abs=1e-10)


def test_attention_cka_does_not_see_the_order_of_heads_but_their_mixture(maps):
    mixed = [np.einsum("gh,hrk->grk", [[0.6, 0.4, 0], [0.4, 0.6, 0], [0, 0, 1]], u) for u in maps[0]]
    assert attention_cka(maps[0], [u[[2, 0, 1]] for u in maps[0]]) == pytest.approx(1, abs=1e-12)
    assert 0.5 < attention_cka(maps[0], mixed) < 0.95
    uniform = [np.full_like(u, 1 / u.shape[2]) for u in maps[0]]
    assert np.isnan(attention_cka(maps[0], uniform))


def test_what_heads_look_at():
    t, queries = 40, np.arange(3, 40, 4)
    eye, uniform = np.eye(t)[queries], np.full((len(queries), t), 1 / t)
    ahead = np.eye(t)[np.minimum(queries + 2, t - 1)]
    first = np.zeros((len(queries), t))
    first[:, 0] = 1
    profile = attention.profile_of([attention.looks(np.stack([eye, uniform, ahead, first]), queries)] * 2)
    np.testing.assert_allclose(profile.entropy, [0, 1, 0, 0], atol=1e-12)
    away = np.abs(np.arange(t) - queries[:, None]).mean()
    np.testing.assert_allclose(
        profile.distance, [0, away, 18 / 10, queries.mean()], rtol=1e-12
    )  # the last query sees 0
    np.testing.assert_allclose(profile.diagonality, 1 - profile.distance / away, atol=1e-12)
    np.testing.assert_allclose(profile.one_key, [1 / 10, 1 / t, 1 / 10, 1], atol=1e-12)
    lone = attention.profile_of([attention.looks(np.ones((2, 1, 1)), [0])])
    assert lone.entropy.tolist() == lone.distance.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([0, 1], "queries, utterance 0: 2 frame numbers up to 1 for 3 rows of 3 frames"),
        ([0, 1, 3], "queries, utterance 0: 3 frame numbers up to 3 for 3 rows of 3 frames"),
    ],
)
def test_queries_that_do_not_number_the_rows(queries, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        attention.looks(np.eye(3)[None], queries)


@pytest.mark.parametrize(
    ("measure", "a", "b", "message"),
    [
        ("person", [], [], r"unknown attention measure 'person'; did you mean 'pearson'\?"),
        ("attention_cka", [], [], "'attention_cka' compares layers, not heads: use compare or attention_cka"),
        ("js", [], [], "a has 0 utterances, b 0; give the same ones"),
        ("js", [np.eye(3)[None]], [], "a has 1 utterances, b 0"),
        ("js", [np.eye(3)], [np.eye(3)], r"a, utterance 0: shape \(3, 3\); give \(heads, rows, T\)"),
        ("js", [np.eye(3)[None]], [np.eye(4)[None]], r"utterance 0 has \(rows, T\) \(3, 3\) in a, \(4, 4\) in b"),
        (
            "js",
            [np.eye(3)[None]],
            [2 * np.eye(3)[None]],
            "b, utterance 0: rows are not distributions .sums off by up to 1",
        ),
        (
            "js",
            [np.eye(3)[None]],
            [np.eye(3)[None] * np.nan],
            "b, utterance 0: rows are not distributions .sums off by up to nan",
        ),
    ],
)
def test_errors_say_what_failed(measure, a, b, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        attention_similarity(measure, a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_of_half_precision_are_brought_to_sum_1(dtype):
    whole = [torch.as_tensor(softmax_maps(np.random.default_rng(u), 3, 40, n)) for u, n in enumerate((9, 300))]
    half = [maps.to(dtype) for maps in whole]
    off = max(float((maps.float().sum(2) - 1).abs().max()) for maps in half)
    assert (off > 1e-3) == (dtype is torch.bfloat16)
    for measure in ("pearson", "js", "frobenius"):
        found = attention_similarity(measure, half, half)
        np.testing.assert_allclose(found.diagonal(), 1, atol=1e-6)
        np.testing.assert_allclose(found, attention_similarity(measure, whole, whole), atol=0.01)
    with pytest.raises(SslsimError, match="a, utterance 0: rows are not distributions .sums off by up to 0.05"):
        attention_similarity("js", [half[0] * 1.05], half[:1])
    with pytest.raises(SslsimError, match="rows are not distributions"):
        attention_similarity("js", [half[0].float() * 1.005], [half[0].float()])
