"""Units of feed-forward layers: the numbers between the two linear maps, of every architecture."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from conftest import tone
from test_architectures import ARCHITECTURES, build, off, plain, preprocessor, save
from test_names import whole_model
from transformers.activations import ACT2FN

from sslsim.activations.study import Study
from sslsim.comparison.layers import neuron_partners
from sslsim.encoders.encoder import second_linear
from sslsim.encoders.files import expected_shape
from sslsim.encoders.lineup import LOG_MEL, Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError

WAVEFORM = tone(0, 16_000)
INSIDE = ("SpeechT5ForSpeechToText", "SeamlessM4Tv2ForSpeechToText", "SpeechEncoderDecoderModel")
FIRST = {"conformer": "ffn2.intermediate_dense", "2-bert": "ffn2.intermediate_dense", "whisper": "fc1"}
FIRST |= {"Seamless": "ffn2.intermediate_dense"}  # of the others feed_forward.intermediate_dense
SWISH = ("wav2vec2-bert", "SeamlessM4Tv2ForSpeechToText")


def directly(name, model, preprocess):
    """Run transformers alone; return the activation function of what the first linear map of each block gives."""
    before = {"whisper": 120, "wav2vec2-bert": 80, INSIDE[1]: 80}.get(name, 0)  # samples that bring frames to ours
    after = before if before == 80 else 0
    sound = np.concatenate([np.zeros(before, "f4"), WAVEFORM, np.zeros(after, "f4")])
    place = next((path for part, path in FIRST.items() if part in name), "feed_forward.intermediate_dense")
    given = []
    for block in getattr(getattr(model, "encoder", getattr(model, "wrapped_encoder", model)), "layers", None):
        block.get_submodule(place).register_forward_hook(lambda _module, _args, out: given.append(out[0]))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model(**preprocess(sound, sampling_rate=16_000, return_tensors="pt"))
    first = int(name == "whisper")
    return [ACT2FN["swish" if name in SWISH else "gelu"](each)[first : first + 49].numpy() for each in given]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *INSIDE])
def test_units_are_those_between_the_two_linear_maps(tmp_path, name):
    if name in ARCHITECTURES:
        kind, settings, mask = ARCHITECTURES[name]
        save(build(kind, **settings), preprocessor(kind, mask), tmp_path)
        model, preprocess = plain(tmp_path)
    else:
        whole, model, preprocess = whole_model(name)
        save(whole, preprocess, tmp_path)
        model.set_attn_implementation("eager")
        model.adapter = None
    checkpoint = Checkpoint("x", str(tmp_path))
    encoder = load_encoder(checkpoint, site="ffn")
    encoded, expected = encoder.encode(WAVEFORM, []), directly(name, model, preprocess)
    assert encoded.hidden.shape == (3, 49, 32)
    assert (encoder.anatomy.n_layers, encoder.anatomy.n_neurons, encoder.anatomy.n_heads) == (3, 32, 0)
    assert encoded.final is None
    assert len(encoded.attention) == 0
    for ours, theirs in zip(encoded.hidden, expected, strict=True):
        assert off(ours, theirs) < 1e-5
    some = encoder.encode(WAVEFORM, [], [5, 40])
    np.testing.assert_array_equal(some.hidden, encoded.hidden[:, [5, 40]])
    if name not in INSIDE:  # whose settings lie deeper
        assert expected_shape(checkpoint, "ffn") == (3, 32, 0)
        assert expected_shape(checkpoint)[:2] == (4, 24)


def test_what_has_no_feed_forward_layers_is_refused(tmp_path, monkeypatch):
    folder = save(build("Hubert"), preprocessor("Hubert", False), tmp_path)
    with pytest.raises(SslsimError, match="site is 'mlp'; known: hidden, ffn"):
        load_encoder(Checkpoint("x", str(folder)), site="mlp")
    with pytest.raises(SslsimError, match="'log-mel': a spectrogram has no feed-forward layers"):
        load_encoder(Checkpoint(LOG_MEL, LOG_MEL), site="ffn")
    with pytest.raises(SslsimError, match="log-mel has no feed-forward layers; name other checkpoints"):
        Study(checkpoints=(LOG_MEL,), site="ffn").selected()
    monkeypatch.setattr("sslsim.encoders.encoder.second_linear", lambda _block: None)
    with pytest.raises(
        SslsimError, match="'x': no feed-forward part was found in HubertEncoderLayer; take site hidden"
    ):
        load_encoder(Checkpoint("x", str(folder)), site="ffn")
    assert second_linear(torch.nn.Linear(2, 2)) is None


def test_a_planted_unit_is_found_as_the_partner(corpus, tmp_path):
    """Unit 7 of block 2 of one model is unit 11 of another: the same weights in, on the same input, all else random."""
    one, other = build("Hubert"), build("Hubert", seed=1)
    x, y = (model.encoder.layers[1].feed_forward.intermediate_dense for model in (one, other))
    with torch.no_grad():
        rows = x.weight[7].clone(), x.bias[7].clone()
        for name, weight in one.named_parameters():  # what comes before the feed-forward part of block 2
            if not name.startswith(("encoder.layers.2", "encoder.layers.1.feed_forward", "encoder.layers.1.final")):
                other.get_parameter(name).copy_(weight)
        y.weight[11], y.bias[11] = rows
    lineup = [
        Checkpoint(name, str(save(m, preprocessor("Hubert", False), tmp_path / name)))
        for name, m in (("x", one), ("y", other))
    ]
    stores = Study(lineup, corpus, site="ffn").extract(tmp_path / "stores", device="cpu")
    assert [store.layer_numbers for store in stores] == [range(1, 4)] * 2
    found = neuron_partners(stores, device="cpu")
    found = found[(found.model_x == "x") & (found.layer_x == 2)].set_index("neuron_x")
    assert found.loc[7, ["layer_y", "neuron_y"]].tolist() == [2, 11]
    assert found.value[7] > 1 - 1e-6
    assert found.value.drop(7).abs().max() < 0.99
