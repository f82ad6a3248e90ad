from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from conftest import tone
from safetensors.torch import load_file, save_file

from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError

KINDS = [f"{family}-{norm}" for family in ("wav2vec2", "hubert") for norm in ("post", "pre")]
WAVEFORM = tone(0, 16_000)
ROWS = [0, 7, 30, 48]


@cache
def loaded(folder):
    """Return the encoder of a folder that stays as it is."""
    return load_encoder(Checkpoint("x", str(folder)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_finetuned_form_is_opened_as_its_encoder(checkpoints, kind):
    base, ctc = (loaded(checkpoints / (kind + head)) for head in ("", "-ctc"))
    np.testing.assert_array_equal(base.encode(WAVEFORM, ROWS).hidden, ctc.encode(WAVEFORM, ROWS).hidden)
    weights = sum(w.numel() for w in ctc.model.parameters())
    assert base.anatomy.parameters == ctc.anatomy.parameters == weights


def test_rows_do_not_change_the_states_and_none_gives_no_attention(checkpoints):
    encoder = loaded(checkpoints / "hubert-post")
    with_rows, without = encoder.encode(WAVEFORM, ROWS), encoder.encode(WAVEFORM, [])
    np.testing.assert_array_equal(with_rows.hidden, without.hidden)
    assert without.attention.shape == (0, 4, 0, 49)
    np.testing.assert_allclose(with_rows.attention.sum(axis=-1), 1, atol=1e-5)


def test_one_encoder_serves_several_threads_at_a_time(checkpoints):
    encoder = loaded(checkpoints / "wav2vec2-pre")
    waveforms = [tone(seed, 9_000 + 700 * seed) for seed in range(8)]
    alone = [encoder.encode(w, ROWS[:2]) for w in waveforms]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda w: encoder.encode(w, ROWS[:2]), 4 * waveforms))
    for encoded, expected in zip(together, 4 * alone, strict=True):
        np.testing.assert_allclose(encoded.hidden, expected.hidden, atol=1e-5)
        np.testing.assert_allclose(encoded.attention, expected.attention, atol=1e-5)


def test_attention_is_of_the_rows_asked_for(checkpoints):
    encoder = loaded(checkpoints / "hubert-post")
    every = encoder.encode(WAVEFORM, range(49)).attention
    np.testing.assert_array_equal(encoder.encode(WAVEFORM, ROWS).attention, every[:, :, ROWS])


def copy(checkpoints, tmp_path, name="wav2vec2-post"):
    """Return a checkpoint to spoil."""
    shutil.copytree(checkpoints / name, tmp_path / "copy")
    return Checkpoint("x", str(tmp_path / "copy"))


def edit(path, **changes):
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("do_normalize", "same"), [(True, True), (False, False)])
def test_the_preprocessor_decides_on_normalisation(checkpoints, tmp_path, do_normalize, same):
    checkpoint = copy(checkpoints, tmp_path, "wav2vec2-pre")
    edit(tmp_path / "copy" / "preprocessor_config.json", do_normalize=do_normalize)
    encoder = load_encoder(checkpoint)
    a, b = (encoder.encode(w, []).hidden for w in (WAVEFORM, np.float32(0.05) + WAVEFORM / 7))
    assert np.allclose(a, b, atol=1e-2) == same


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_twins_have_the_weights_that_transformers_draws(checkpoints, tmp_path, kind):
    import transformers

    for name in ("config.json", "preprocessor_config.json"):  # no weights: none are read
        shutil.copy(checkpoints / f"{kind}-ctc" / name, tmp_path)
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    twin, again, other = (load_encoder(Checkpoint("x", str(tmp_path), untrained_seed=s)) for s in (5, 5, 6))
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers go on as if nothing had been drawn
    torch.manual_seed(5)
    family = {"wav2vec2": transformers.Wav2Vec2Model, "hubert": transformers.HubertModel}[kind.split("-")[0]]
    plain = family(transformers.AutoConfig.from_pretrained(tmp_path)).state_dict()
    for key, weight in twin.model.state_dict().items():
        assert torch.equal(weight, plain[key]), key
    hidden = [encoder.encode(WAVEFORM, ROWS).hidden for encoder in (twin, again, other)]
    np.testing.assert_array_equal(hidden[0], hidden[1])
    assert np.abs(hidden[0] - hidden[2]).max() > 0.1
    assert twin.anatomy == loaded(checkpoints / kind).anatomy
    trained = loaded(checkpoints / kind).encode(WAVEFORM, ROWS)
    assert twin.encode(WAVEFORM, ROWS).attention.shape == trained.attention.shape
    assert np.abs(hidden[0] - trained.hidden).max() > 0.1


def test_half_precision_files_are_run_in_float32(checkpoints, tmp_path):
    checkpoint = copy(checkpoints, tmp_path)
    path = tmp_path / "copy" / "model.safetensors"
    save_file({key: w.half() for key, w in load_file(path).items()}, path, {"format": "pt"})
    edit(tmp_path / "copy" / "config.json", dtype="float16")
    encoder = load_encoder(checkpoint)
    assert {w.dtype for w in encoder.model.parameters()} == {torch.float32}
    whole = loaded(checkpoints / "wav2vec2-post").encode(WAVEFORM, []).hidden
    np.testing.assert_allclose(encoder.encode(WAVEFORM, []).hidden, whole, atol=0.05)


def test_loading_and_running_print_nothing(checkpoints, capfd):
    load_encoder(Checkpoint("x", str(checkpoints / "hubert-pre-ctc"))).encode(WAVEFORM, ROWS)
    assert capfd.readouterr() == ("", "")


def _spoil_weights(change):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return spoil


def _settings(file, **changes):
    return lambda folder: edit(folder / file, **changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _spoil_weights(lambda w: w.pop("encoder.layers.1.attention.q_proj.weight")),
            r"the encoder of '.*copy' lacks weights \(1\): encoder.layers.1.attention.q_proj.weight",
        ),
        (
            _settings("config.json", num_hidden_layers=2),
            r"the encoder of '.*copy' has no place for weights \(16\): encoder.layers.2.\S+, \S+, \S+, \.\.\.",
        ),
        (_settings("config.json", hidden_size=32), r"the encoder of '.*copy' has other shapes for weights \(\d+\): "),
        (_settings("config.json", model_type="nonsense"), "checkpoint 'x': '.*copy' does not load: .*nonsense"),
        (
            _settings("config.json", conv_stride=[5, 2, 2, 2, 2, 2, 1]),
            "checkpoint 'x': makes one frame every 10 ms; 13.3 to 80 ms are supported",
        ),
        (_settings("preprocessor_config.json", sampling_rate=8_000), "wants audio at 8000 Hz, not 16000"),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            "checkpoint 'x': no preprocessor_config.json in '.*copy'; copy it from",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"junk" * 9),
            "model.safetensors in '.*copy' is cut off or damaged",
        ),
        (lambda f: (f / "config.json").write_text("{"), "checkpoint 'x': '.*copy' does not load: .*JSON"),
    ],
)
def test_spoilt_checkpoints_are_refused_in_one_line(checkpoints, tmp_path, spoil, message):
    checkpoint = copy(checkpoints, tmp_path)
    spoil(tmp_path / "copy")
    with pytest.raises(SslsimError, match=message) as caught:
        load_encoder(checkpoint).encode(WAVEFORM, ROWS)
    assert "\n" not in str(caught.value)


def test_pickled_weights_load_and_pickled_code_does_not(checkpoints, tmp_path):
    checkpoint = copy(checkpoints, tmp_path)
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    (tmp_path / "copy" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "copy" / "pytorch_model.bin")
    whole = loaded(checkpoints / "wav2vec2-post").encode(WAVEFORM, []).hidden
    np.testing.assert_array_equal(load_encoder(checkpoint).encode(WAVEFORM, []).hidden, whole)

    torch.save({"code": Planted(tmp_path / "ran")}, tmp_path / "copy" / "pytorch_model.bin")
    with pytest.raises(
        SslsimError, match=r"'.*copy' does not load: weights that hold more than numbers, .*; save them as"
    ) as caught:
        load_encoder(checkpoint)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_an_unknown_device(checkpoints):
    with pytest.raises(SslsimError, match="device 'abacus' cannot be used: "):
        load_encoder(Checkpoint("x", str(checkpoints / "hubert-post")), device="abacus")
