"""``device="cuda"`` computes everything on the device: each measure, on a pretended one."""

import numpy as np
import pytest
import torch
from pretend import OnGpu, pretend_cuda

import sslsim
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


@pytest.mark.parametrize("measure", [name for name, one in MEASURES.items() if one.level != "attention"])
def test_every_measure_of_layers(measure, layers):
    known = {"utterances": [100] * 7} if MEASURES[measure].utterances else {}
    expected = sslsim.similarity(measure, *layers, **known)
    with pretend_cuda():
        there = sslsim.similarity(measure, *layers, device="cuda", **known)
    assert there == pytest.approx(expected, abs=2e-6)


def test_moments_stay_on_the_device(layers):
    with pretend_cuda():
        m = moments(*layers, device="cuda")
        for tensor in (m.cross, m.x.mean, m.y.scatter, m.x.components.directions, m.whitened, *m.canonical):
            assert isinstance(tensor, OnGpu)
        already_there = moments(*(torch.from_numpy(side).to("cuda") for side in layers), device="cuda")
        assert torch.equal(already_there.cross, m.cross)


@pytest.mark.parametrize("measure", [name for name, one in MEASURES.items() if one.level == "attention"])
def test_every_measure_of_attention(measure):
    rng = np.random.default_rng(0)
    maps = [torch.softmax(torch.as_tensor(rng.standard_normal((3, 9, 9))), 2).numpy() for _ in range(4)]
    score = MEASURES[measure].score
    with pretend_cuda():
        there = score(maps[:2], maps[2:], device="cuda")
    np.testing.assert_allclose(there, score(maps[:2], maps[2:]), atol=1e-7)
