"""Encoders whose frames are not of 20 ms: when their frames are, for each length of sound, and how they compare."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import transformers
from test_architectures import ARCHITECTURES, build, preprocessor, save

import sslsim
from sslsim.activations import conditions
from sslsim.cli import main
from sslsim.encoders.files import expected_step
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError, Unanswered
from sslsim.speech.recording import Clock

CONVOLUTIONS = {"conv_dim": [16] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
SLOW = {"conv_stride": [5, 2, 2, 2, 2, 2, 4], "conv_kernel": [10, 3, 3, 3, 3, 2, 4]}
PARAKEET = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "subsampling_conv_channels": 8}
MILLISECONDS = {"sew": 40, "sew-d": 40, "hubert-25": 40, "parakeet": 80, "parakeet-ctc": 80, "mert": 40 / 3}
BASE = (0.01 * np.random.default_rng(0).standard_normal(48_000)).astype("f4")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def make(name, folder):
    """Save a tiny checkpoint of one rate."""
    if name.startswith("parakeet"):
        config = transformers.ParakeetEncoderConfig(hidden_size=32, num_mel_bins=80, **PARAKEET)
        torch.manual_seed(0)
        model = transformers.ParakeetEncoder(config)
        if name == "parakeet-ctc":
            inside = config.to_dict()
            config = transformers.ParakeetCTCConfig(vocab_size=60, pad_token_id=59, encoder_config=inside)
            model = transformers.ParakeetForCTC(config)
        return save(model.eval(), transformers.ParakeetFeatureExtractor(feature_size=80), folder)
    kind = {"sew": "SEW", "sew-d": "SEWD"}.get(name, "Hubert")
    settings = {"hubert-25": SLOW, "mert": {}}.get(name, CONVOLUTIONS)
    settings |= {"position_buckets": 8, "max_position_embeddings": 512} if kind == "SEWD" else {}
    rate = 24_000 if name == "mert" else 16_000
    save(build(kind, **settings), transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate), folder)
    if name == "mert":
        edit(folder / "config.json", model_type="mert_model", architectures=["MERTModel"])
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return a function that loads the encoder of a name, once."""
    encoders = {}

    def load(name):
        if name not in encoders:
            folder = tmp_path_factory.mktemp(name)
            if name in ARCHITECTURES:
                kind, settings, mask = ARCHITECTURES[name]
                save(build(kind, **settings), preprocessor(kind, mask), folder)
            else:
                make(name, folder)
            encoders[name] = load_encoder(Checkpoint(name, str(folder)))
        return encoders[name]

    return load


@pytest.fixture(autouse=True)
def one_thread():
    """Run tiny networks on one thread: more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", [*MILLISECONDS, *ARCHITECTURES])
def test_a_burst_is_met_by_the_frame_that_is_centred_on_it(loaded, name):
    """What a click of 5 ms changes in the input of the blocks is centred, on average, on the frame of its time."""
    encoder, rng = loaded(name), np.random.default_rng(1)
    clock, before = encoder.anatomy.clock, encoder.encode(BASE, ()).hidden[0]
    assert clock.milliseconds == pytest.approx(MILLISECONDS.get(name, 20))
    frames, off = np.arange(len(before)), []
    for frame in np.linspace(5, len(before) - 6, 12).astype(int):
        sound, at = BASE.copy(), round(float(clock.times(frames[frame])) * 16_000)
        sound[at - 40 : at + 40] += (0.2 * rng.standard_normal(80)).astype("f4")
        changed = np.linalg.norm(encoder.encode(sound, ()).hidden[0] - before, axis=1) * (abs(frames - frame) < 5)
        off.append(changed @ frames / changed.sum() - frame)
    assert abs(np.mean(off)) < 0.3  # convolutions that code positions reach further to one side


@pytest.mark.parametrize("name", MILLISECONDS)
def test_there_are_as_many_frames_as_the_clock_says_of_every_length(loaded, name):
    encoder = loaded(name)
    for n in (400, 900, *range(2_000, 4_700, 173), 16_000, 16_001):
        rows = range(min(2, encoder.anatomy.clock.n_frames(n)))
        encoded = encoder.encode(BASE[:n], rows)
        length = encoder.anatomy.clock.n_frames(n)
        assert encoded.hidden.shape == (encoder.anatomy.n_layers, length, encoder.anatomy.n_neurons)
        if length:
            assert encoded.attention.shape == (encoder.anatomy.n_layers - 1, 4, len(rows), length)
            np.testing.assert_allclose(encoded.attention.sum(-1), 1, atol=1e-5)


def test_clocks():
    assert Clock().n_frames(16_000) == 49
    assert Clock().times(np.array([0, 1])).tolist() == [0.0125, 0.0325]
    assert Clock(rate=24_000).n_frames(16_000) == 74


@pytest.fixture
def rates(loaded, corpus, tmp_path):
    """Return stores of encoders of 20, 40, 80 and 13.3 ms over one corpus."""
    names = ("hubert-post", "sew", "parakeet", "mert")
    lineup = [loaded(name).checkpoint for name in names]
    return sslsim.Study(lineup=lineup, corpus=corpus).extract(tmp_path / "store", device="cpu")


def test_models_of_other_rates_are_compared_in_units_and_not_frame_by_frame(rates, corpus):
    assert [round(store.clock.milliseconds, 1) for store in rates] == [20, 40, 80, 13.3]
    told = (
        r"^layers cannot be paired: frames are every 20 ms \(hubert-post\) and every 40 ms \(sew\); compare a unit of"
    )
    for compare in (lambda s: sslsim.compare(s, ["linreg"]), sslsim.compare_attention):
        with pytest.raises(SslsimError, match=told):
            compare(rates[:2])
    units = sslsim.in_units(rates, "80ms")
    assert len({store.frame_key for store in units}) == 1
    assert len(sslsim.compare(units, ["linreg"])) == sum(store.n_layers for store in rates) ** 2
    for store, of_frames in zip(units, rates, strict=True):
        assert store.index.n_frames.tolist() == units[0].index.n_frames.tolist()
        inside = np.flatnonzero(of_frames.times(0) < 0.08 - 1e-9)
        np.testing.assert_allclose(store.layer(1)[0], of_frames.layer(1)[inside].mean(0), rtol=1e-4, atol=1e-5)
    told = "^attention is of frames, and these models have one every 13.3, 20, 40, 80 ms; name some of one rate$"
    with pytest.raises(Unanswered, match=told):
        sslsim.compare_attention(units)
    assert sslsim.open(rates[1].root).clock == rates[1].clock


@pytest.mark.parametrize("name", [*MILLISECONDS, *ARCHITECTURES])
def test_settings_tell_the_rate_before_weights_are_loaded(loaded, name):
    anatomy, step = loaded(name).anatomy, expected_step(loaded(name).checkpoint)
    assert 1000 * step == pytest.approx(anatomy.clock.milliseconds)


def test_what_will_be_kept_is_told_by_the_rate_of_each(loaded, corpus, tmp_path, capsys):
    lineup = [loaded(name).checkpoint for name in ("sew", "parakeet", "mert")]
    stores = sslsim.Study(lineup=lineup, corpus=corpus).extract(tmp_path / "store", device="cpu")
    told = capsys.readouterr().out.splitlines()[0]
    found = re.search(
        r" (\d+) of \1 frames of 13.3 ms, (\d+) of \2 frames of 40 ms, (\d+) of \3 frames of 80 ms to", told
    )
    lengths = [int(store.index.length.sum()) for store in stores]
    assert [int(n) for n in found.groups()] == pytest.approx([lengths[2], *lengths[:2]], abs=len(stores[0].index))
    size = sum(file.stat().st_size for store in stores for file in store.root.glob("*.bin")) / 1000
    assert float(re.search(r"takes about ([\d.]+) kB", told)[1]) == pytest.approx(size, rel=0.25)


def test_models_of_other_rates_are_refused_before_a_run_reads_audio_but_in_units(loaded, corpus, tmp_path, capsys):
    tables = [f'[[checkpoint]]\nname = "{n}"\nsource = "{loaded(n).checkpoint.source}"' for n in ("hubert-post", "sew")]
    (tmp_path / "lineup.toml").write_text("\n".join(tables))
    call = ["run", "layers", "--lineup", str(tmp_path / "lineup.toml"), "--corpus", str(corpus), "--out"]
    assert main([*call, str(tmp_path / "out"), "--dry-run"]) == 2
    told = "frames are every 20 ms (hubert-post) and every 40 ms (sew); give --unit 80ms, phone or word, or checkpoints"
    assert told in capsys.readouterr().err
    assert main([*call, str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert main([*call, str(tmp_path / "out"), "--dry-run", "--unit", "80ms"]) == 0


def test_arrays_of_a_lineup_have_the_frames_of_the_encoder_with_their_clock(loaded, corpus, tmp_path):
    (tmp_path / "own").mkdir()
    encoders = [loaded(name).checkpoint for name in ("sew", "hubert-post")]
    study = sslsim.Study(lineup=encoders, corpus=corpus, frames=90)
    sew, hubert = study.extract(tmp_path / "store", device="cpu")
    for row in hubert.index.itertuples():
        (tmp_path / "own" / f"{row.utterance}.npy").parent.mkdir(exist_ok=True)
        np.save(tmp_path / "own" / f"{row.utterance}.npy", np.random.default_rng(0).random((1, row.length, 3)))
    own = Checkpoint("own", str(tmp_path / "own"), times=(0.0125, 0.02))
    *_, arrays = replace(study, lineup=[*encoders, own]).extract(tmp_path / "store", device="cpu")
    assert arrays.frame_key == hubert.frame_key
    assert len(sslsim.compare([hubert, arrays], ["linreg"])) == (hubert.n_layers + 1) ** 2


def test_a_frame_as_near_to_two_of_the_spectrogram_takes_the_earlier_one(loaded, corpus, tmp_path):
    lineup = [loaded("sew").checkpoint, Checkpoint("log-mel", "log-mel")]
    stores = sslsim.Study(lineup=lineup, corpus=corpus).extract(tmp_path / "store", device="cpu")
    for u, (_, wanted) in enumerate(conditions._spectrogram(stores)):
        middle = wanted[3:-3, wanted.shape[1] // 2]  # frames 2 k and 2 k + 1 of the spectrogram are as near
        assert (middle == 2 * np.arange(stores[0].index.length[u])[3:-3]).all()


def test_attention_without_a_row_is_none(loaded, tmp_path):
    rng = np.random.default_rng(0)
    for n in (430, 500):  # as long as a frame of 20 ms, and shorter than one of 40
        soundfile.write(tmp_path / f"{n}.wav", rng.standard_normal(n) / 9, 16_000)
    stores = sslsim.Study(lineup=[loaded("sew").checkpoint], corpus=tmp_path).extract(tmp_path / "s", device="cpu")
    for function in (sslsim.compare_attention, sslsim.compare_heads, sslsim.describe_heads):
        with pytest.raises(SslsimError, match="no attention in these stores; extract with queries above 0"):
            function(stores)


def test_what_has_no_rule_is_refused(tmp_path):
    cqt = make("mert", tmp_path / "cqt")
    edit(cqt / "config.json", feature_extractor_cqt=True)
    with pytest.raises(SslsimError, match="is a MERT model with feature_extractor_cqt, which needs its authors' code"):
        load_encoder(Checkpoint("x", str(cqt)))
    fast = save(build("Hubert", conv_stride=[5, 2, 2, 2, 2, 2, 1]), preprocessor("Hubert", False), tmp_path / "fast")
    with pytest.raises(SslsimError, match="makes one frame every 10 ms; 13.3 to 80 ms are supported$"):
        load_encoder(Checkpoint("x", str(fast)))
    config = transformers.ParakeetEncoderConfig(hidden_size=32, num_mel_bins=80, **PARAKEET, subsampling_factor=16)
    model = transformers.ParakeetEncoder(config).eval()
    slow = save(model, transformers.ParakeetFeatureExtractor(feature_size=80), tmp_path / "slow")
    with pytest.raises(SslsimError, match="makes one frame every 160 ms; 13.3 to 80 ms are supported$"):
        load_encoder(Checkpoint("x", str(slow)))
