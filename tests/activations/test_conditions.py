from __future__ import annotations

import pickle

import numpy as np
import pytest

from sslsim.activations import selection
from sslsim.activations.conditions import condition, orthonormal
from sslsim.activations.selection import layer_views, less, mismatched, on_rows
from sslsim.errors import SslsimError


@pytest.fixture
def stores(make_store):
    """Make a model and the log-mel spectrogram of the same frames."""
    return [make_store(), make_store("log-mel", source="log-mel", n_layers=1, n_heads=0, final_norm=False, seed=1)]


def explained(x, columns):
    z = np.c_[np.ones(len(columns)), columns]
    return z @ np.linalg.lstsq(z, x, rcond=None)[0]


def test_a_basis_spans_what_varies_whatever_its_units():
    z = np.random.default_rng(0).standard_normal((300, 8)) * 10.0 ** np.arange(-4, 4) + 10
    basis = orthonormal(np.c_[z, z[:, :2].sum(1), np.ones(300)])
    assert basis.shape == (300, 9)
    np.testing.assert_allclose(basis.T @ basis, np.eye(9), atol=1e-13)
    np.testing.assert_allclose(basis @ (basis.T @ z), z, rtol=1e-9)
    with pytest.raises(SslsimError, match="8 dimensions on 16 frames; give fewer than a quarter as many"):
        orthonormal(z[:16])


def test_what_is_given_by_name(stores):
    length = stores[0].index["length"].to_numpy()
    place, of = np.concatenate([np.arange(n) for n in length]), np.repeat(length, length)
    position = condition(stores, "position")
    for known in (place == 3, place == of - 2, ((place + 0.5) / of) ** 3):
        np.testing.assert_allclose(explained(known.astype(float), position), known, atol=1e-5)
    both = condition(stores, ["position", np.arange(57.0), np.repeat([0, 3, 1], 19), "speaker"])
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both[20, position.shape[1] :], [20, 0, 0, 1, 1])


def test_the_spectrogram_is_given_with_its_context(stores):
    log_mel = stores[1].layer(0)[:]
    near = np.concatenate(
        [
            np.pad(log_mel[a : a + n], ((8, 8), (0, 0)), "edge")[np.arange(n)[:, None] + np.arange(17)]
            for a, n in zip(stores[1].index.start, stores[1].index.n_frames, strict=True)
        ]
    ).reshape(57, -1)
    components = np.linalg.svd(near - near.mean(0))[0]
    given = condition(stores, "log_mel", 100)
    assert given.shape == (57, 2)  # one for 20 frames, of which there are no more
    both = np.linalg.svd(orthonormal(given).T @ components[:, :2], compute_uv=False)
    np.testing.assert_allclose(both, 1, atol=1e-6)
    np.testing.assert_allclose(condition(stores, "loudness")[:, 8], np.log(np.exp(log_mel).sum(1)), atol=1e-5)


def test_what_cannot_be_given_is_refused(stores, make_store):
    few = make_store("few", source="log-mel", n_layers=1, kept=9)
    other = make_store("other", source="log-mel", n_layers=1, audio="b")
    for given, some, message in (
        ("posiiton", stores, "given names 'posiiton', which is unknown; did you mean 'position'"),
        ("phone", stores, "labels of phones are given as an array, see analysis.labels_if_any"),
        ([], stores, "given is empty; name some of log_mel"),
        (np.zeros((56, 2)), stores, r"given has shape \(56, 2\); give \(57, k\), one row for every stored frame"),
        (np.full((57, 2), np.nan), stores, "frame 0 of what is given is NaN or infinite"),
        ("log_mel", stores[:1], "is needed with all its frames, and there is none among the stores; extract it by"),
        ("loudness", [stores[0], few], "few has kept only some frames; extract it by"),
        ("log_mel", [stores[0], other], "other and model were made of other audio"),
    ):
        with pytest.raises(SslsimError, match=message):
            condition(some, given)


@pytest.mark.parametrize("small", [0, 2**22])
def test_a_layer_less_what_is_given(make_store, monkeypatch, small):
    monkeypatch.setattr(selection, "SMALL", small)
    monkeypatch.setattr(selection, "RUN", 7)
    store, rng = make_store(), np.random.default_rng(0)
    z = rng.standard_normal((57, 3))
    views = less(layer_views([store], 40), z)
    frames = views[1].frames
    order, some = rng.permutation(len(frames)), np.arange(len(frames)) % 3 > 0
    x, z = store.layer(1)[:][frames], z[frames]
    np.testing.assert_allclose(views[1][3:30], (x - explained(x, z))[3:30], atol=1e-5)
    kept = on_rows(views, some)[1]
    np.testing.assert_allclose(kept[0:99], x[some] - explained(x[some], z[some]), atol=1e-5)
    both, wrong = (side[1] for side in mismatched(views, order))
    twice = np.c_[z, z[order]]
    np.testing.assert_allclose(both[0:40], x - explained(x, twice), atol=1e-5)
    np.testing.assert_allclose(wrong[order], x[order] - explained(x[order], twice), atol=1e-5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(wrong))[0:40], wrong[0:40])
    assert (kept.shape, wrong.label, wrong.store) == ((int(some.sum()), 6), ("model", 1), store)
    np.testing.assert_array_equal(on_rows(layer_views([store], 40), some)[1][0:99], x[some])
