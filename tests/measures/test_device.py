"""``device="cuda"`` computes everything on the device: each measure, the grid and attention, on a pretended one."""

import numpy as np
import pytest
import torch
from pretend import Here, OnGpu, pretend_cuda

import sslsim
from sslsim.measures.attention import MEASURES as HEADS
from sslsim.measures.attention import attention_cka, attention_similarity
from sslsim.measures.moments import moments
from sslsim.measures.registry import MEASURES


@pytest.fixture(scope="module")
def layers():
    """Wide layers, so that pairs run in float32; one neuron is constant."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 260)).astype("f4")
    y = (x @ rng.standard_normal((260, 270)) / 16 + rng.standard_normal((700, 270))).astype("f4")
    y[:, 7] = 3
    return x, y


def test_the_pretended_device_refuses_what_cuda_refuses():
    with pretend_cuda():
        x = torch.zeros(3, device="cuda")
        assert x.device.type == "cuda"
        assert isinstance(x + 1, OnGpu)
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            x + torch.zeros(3)
        with pytest.raises(TypeError, match="to numpy"):
            x.numpy()
        assert not isinstance(x.cpu(), OnGpu)
        assert torch.ones(2).to("cuda").add_(1).cpu().tolist() == [2, 2]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure(measure, standardize, layers):
    known = {"utterances": [100] * 7} if MEASURES[measure].utterances else {}
    expected = sslsim.similarity(measure, *layers, standardize=standardize, **known)
    with pretend_cuda():
        found = sslsim.similarity(measure, *layers, standardize=standardize, device="cuda", **known)
    assert found == pytest.approx(expected, abs=2e-6)


def test_moments_stay_on_the_device(layers):
    with pretend_cuda():
        m = moments(*layers, device="cuda")
        for tensor in (m.cross, m.x.mean, m.y.scatter, m.x.components.directions, m.whitened, *m.canonical):
            assert isinstance(tensor, OnGpu)
        already_there = moments(*(torch.from_numpy(side).to("cuda") for side in layers), device="cuda")
        assert torch.equal(already_there.cross, m.cross)


@pytest.mark.parametrize("measure", [*HEADS, "attention_cka"])
def test_attention(measure):
    rng = np.random.default_rng(0)
    maps = [torch.softmax(torch.as_tensor(rng.standard_normal((3, 9, 9))), 2).numpy() for _ in range(4)]
    call = (
        attention_cka if measure == "attention_cka" else lambda *sides, **o: attention_similarity(measure, *sides, **o)
    )
    with pretend_cuda():
        found = call(maps[:2], maps[2:], device="cuda")
    np.testing.assert_allclose(found, call(maps[:2], maps[2:]), atol=1e-7)


def test_the_grid(make_store):
    stores = [make_store(name, n_neurons=n, seed=n) for name, n in (("a", 6), ("b", 9))]
    options = {"standardize": (True, False), "progress": False}
    measures = [*MEASURES, *HEADS, "attention_cka"]
    expected = sslsim.compare(stores, measures, **options)
    with pretend_cuda():
        found = sslsim.compare(stores, measures, device="cuda", executor=Here(), **options)
        _, partners = sslsim.compare_neurons(stores, device="cuda", executor=Here(), progress=False)
    np.testing.assert_allclose(found.value, expected.value, atol=1e-6)
    np.testing.assert_allclose(partners.value, sslsim.compare_neurons(stores, progress=False)[1].value, atol=1e-6)
