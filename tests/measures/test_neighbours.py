"""Measures of the frames themselves: against outside libraries, their definitions and their laws."""

import ckatorch
import numpy as np
import pytest
import torch
from reference import kornblith, seeded
from sklearn.gaussian_process.kernels import RBF
from sklearn.neighbors import NearestNeighbors

import sslsim
from sslsim.measures.neighbours import kernel, kernel_in, neighbours, neighbours_in, sample_frames

X, Y = seeded()


def test_reference_values():
    assert sslsim.similarity("mutual_knn_raw", X, Y) == pytest.approx(0.3595, abs=1e-12)
    assert sslsim.similarity("rbf_cka_raw", X, Y) == pytest.approx(0.6819094727828231, abs=1e-7)


def test_kornblith_demo():
    assert sslsim.similarity("rbf_cka_raw", *kornblith(), bandwidth=0.5) == pytest.approx(0.65483, abs=5e-6)


def test_neighbours_against_scikit_learn():
    ours = neighbours(X, standardize=False, k=7).sort(dim=1).values
    theirs = NearestNeighbors(n_neighbors=8, metric="cosine").fit(X).kneighbors(X)[1]
    assert np.array_equal(ours, np.sort([[j for j in row if j != i] for i, row in enumerate(theirs)], axis=1))


def test_rbf_cka_against_scikit_learn_and_ckatorch():
    grams = []
    for side in (X, Y):
        squared = ((side[:, None] - side[None]) ** 2).sum(2)
        grams.append(torch.as_tensor(RBF(np.sqrt(np.median(squared)))(side)))
    h = torch.eye(200, dtype=torch.float64) - 1 / 200
    centred = [h @ gram @ h for gram in grams]
    expected = (centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm())
    assert sslsim.similarity("rbf_cka_raw", X, Y) == pytest.approx(float(expected), abs=1e-7)
    hsic = [float(ckatorch.hsic0(a, b)) for a, b in ((0, 1), (0, 0), (1, 1)) for a, b in [(grams[a], grams[b])]]
    assert float(expected) == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), abs=1e-9)


# what each must not notice (True) and must notice (False) in y: a shift, one scale, a scale a neuron, a rotation
INVARIANCE = {
    "mutual_knn": (True, True, True, False),
    "mutual_knn_raw": (False, True, False, True),
    "rbf_cka": (True, True, True, False),
    "rbf_cka_raw": (True, True, False, True),
}


@pytest.mark.parametrize("measure", INVARIANCE)
def test_invariances(measure):
    x, y = X, Y
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    transforms = (y + 10 * rng.standard_normal(20), 3 * y, y * np.geomspace(0.01, 50, 20), y @ rotation)
    before = sslsim.similarity(measure, x, y)
    for transformed, same in zip(transforms, INVARIANCE[measure], strict=True):
        moved = abs(sslsim.similarity(measure, x, transformed) - before)
        assert moved < 1e-6 if same else moved > 1e-4


def test_unrelated_layers_share_neighbours_by_chance():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1500, 12))
    assert sslsim.similarity("mutual_knn", x, y) == pytest.approx(10 / 1499, abs=0.002)


def test_long_layers_are_sampled_evenly():
    x, y = (np.tile(side, (3, 1)) for side in (X, Y))
    rows = (np.arange(40) * 600 + 300) // 40
    assert sample_frames(x, 40).tolist() == rows.tolist()
    assert sample_frames(x, 600).tolist() == list(range(600))
    for measure in ("mutual_knn", "rbf_cka"):
        expected = sslsim.similarity(measure, x[rows], y[rows])
        assert sslsim.similarity(measure, x, y, sample=40) == expected
        assert sslsim.similarity(measure, torch.as_tensor(x), y, sample=40) == expected


def test_frames_in_another_order_need_not_be_prepared_anew():
    order = np.random.default_rng(0).permutation(200)
    turn = torch.from_numpy(order)
    found, expected = neighbours_in(neighbours(Y), turn), neighbours(Y[order])
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)
    torch.testing.assert_close(kernel_in(kernel(Y), turn), kernel(Y[order]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        ("mutual_knn", {"k": 200}, "k is 200 with 200 frames; give at least 1 and fewer than there are frames"),
        ("mutual_knn", {"k": 0}, "k is 0 with 200 frames"),
        ("mutual_knn", {"sample": 1}, "sample is 1; it must be a whole number, 2 or more"),
        ("rbf_cka", {"bandwidth": 0}, "bandwidth is 0; give a multiple of the median distance, above 0"),
        ("rbf_cka", {"k": 3}, "measure 'rbf_cka': got an unexpected keyword argument 'k'"),
    ],
)
def test_options_that_make_no_sense(measure, options, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        sslsim.similarity(measure, X, Y, **options)


def test_frames_that_make_no_sense():
    x, y = X, Y
    with pytest.raises(sslsim.SslsimError, match="more than half of all pairs of 200 frames are equal"):
        sslsim.similarity("rbf_cka", np.repeat(x[:1], 200, axis=0) + (np.arange(200) < 9)[:, None], y)
    with pytest.raises(sslsim.SslsimError, match="none of 30 neurons varies over 200 frames; nothing to compare"):
        sslsim.similarity("mutual_knn", np.ones_like(x), y)
    broken = x.copy()
    broken[17, 2] = np.nan
    with pytest.raises(sslsim.SslsimError, match="frame 17 of the sample holds NaN or infinity"):
        sslsim.similarity("mutual_knn", broken, y)
    with pytest.raises(sslsim.SslsimError, match=r"x has shape \(200,\); give \(n_frames, n_neurons\)"):
        sslsim.similarity("rbf_cka", x[:, 0], y)
    with pytest.raises(sslsim.SslsimError, match="x has 200 frames, y 100; give the same frames of both"):
        sslsim.similarity("mutual_knn", x, y[:100])
