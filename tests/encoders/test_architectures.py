"""Every architecture is read as transformers itself runs it: tiny random checkpoints of each, some of real size."""

from __future__ import annotations

import gc
import json
import re
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, tone
from safetensors.torch import load_file, save_file

from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError
from sslsim.speech.recording import n_frames

HEADS = {
    "conv_pos_kernel_size": 5,
    "tdnn_dim": [8, 8],
    "tdnn_kernel": [3, 1],
    "tdnn_dilation": [1, 1],
    "xvector_output_dim": 8,
    "classifier_proj_size": 8,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
    "num_codevectors_per_group": 8,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}  # as the public large ones
WHISPER = {
    "d_model": 24,
    "max_source_positions": 250,  # 5 seconds, not 30
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
    "init_std": 0.2,
    "classifier_proj_size": 8,
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}
# name: the classes' common beginning, settings, whether the preprocessor gives a mask
ARCHITECTURES = {
    "wav2vec2-post": ("Wav2Vec2", {}, False),
    "wav2vec2-pre": ("Wav2Vec2", STABLE, True),
    "hubert-post": ("Hubert", {}, False),
    "hubert-pre": ("Hubert", STABLE, True),
    "wavlm-post": ("WavLM", {}, False),
    "wavlm-pre": ("WavLM", STABLE, True),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 3}, False),
    "unispeech-post": ("UniSpeech", {}, False),
    "unispeech-pre": ("UniSpeech", STABLE, True),
    "unispeech-sat-post": ("UniSpeechSat", {}, False),
    "unispeech-sat-pre": ("UniSpeechSat", STABLE, True),
    "conformer-relative": ("Wav2Vec2Conformer", {"feat_extract_norm": "layer"}, True),
    "conformer-rotary": (
        "Wav2Vec2Conformer",
        {"feat_extract_norm": "layer", "position_embeddings_type": "rotary"},
        True,
    ),
    "conformer-group": ("Wav2Vec2Conformer", {}, False),
    "wav2vec2-bert": ("Wav2Vec2Bert", {}, True),
    "whisper": ("Whisper", {}, False),
}
FEW = ("wav2vec2-pre", "wavlm-post", "conformer-relative", "wav2vec2-bert", "whisper")  # one of each kind
FORMS = ("Model", "ForCTC", "ForSequenceClassification", "ForPreTraining", "ForXVector", "ForAudioFrameClassification")
WHISPER_FORMS = ("Model", "ForConditionalGeneration", "ForAudioClassification")
EVERY_FORM = [
    (name, form)
    for name, (kind, _, _) in ARCHITECTURES.items()
    for form in (WHISPER_FORMS if kind == "Whisper" else FORMS)
    if hasattr(transformers, kind + form)
]
ONE_HEADED = [(name, form) for name, form in EVERY_FORM if form in ("Model", "ForCTC", "ForAudioClassification")]
SPOILT = [each for each in ONE_HEADED if each[0] in FEW]
WAVEFORM = tone(0, 16_000)
ROWS = [0, 7, 30, 48]


def build(kind, form="Model", seed=0, **settings):
    """Return a model with random weights, of a small size unless the settings are of another."""
    small = WHISPER if kind == "Whisper" else TINY | HEADS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = getattr(transformers, kind + form)(getattr(transformers, f"{kind}Config")(**small | settings)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # as trained: biases that are not 0, norms that scale and shift
            if weight.ndim == 1 or name.endswith("gru_rel_pos_const"):
                weight += 0.2 * torch.randn_like(weight)
    return model


def preprocessor(kind, mask, chunk=5):
    if kind == "Whisper":
        return transformers.WhisperFeatureExtractor(chunk_length=chunk)
    if kind == "Wav2Vec2Bert":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=mask)


def save(model, preprocess, folder):
    """Save a checkpoint folder without a line on the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    preprocess.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread(request):
    """Run tiny networks on one thread: more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if "slow" in request.keywords else 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that gives the folder of an architecture in one of its forms; leave it as it is."""
    folders = {}

    def folder(name, form="Model"):
        if (name, form) not in folders:
            kind, settings, mask = ARCHITECTURES[name]
            path = tmp_path_factory.mktemp(f"{name}-{form}")
            folders[name, form] = save(build(kind, form, **settings), preprocessor(kind, mask), path)
        return folders[name, form]

    return folder


@pytest.fixture(scope="module")
def loaded(saved):
    encoders = {}

    def encoder(name, form="Model"):
        if (name, form) not in encoders:
            encoders[name, form] = load_encoder(Checkpoint(name, str(saved(name, form))))
        return encoders[name, form]

    return encoder


@pytest.fixture
def copied(saved, tmp_path):
    """Return a function that gives a copy of a folder, to spoil."""

    def folder(name, form="Model"):
        return shutil.copytree(saved(name, form), tmp_path / "copy")

    return folder


def plain(folder):
    """Open an encoder and its preprocessor as the documentation of transformers shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
        preprocess = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return (model.get_encoder() if model.config.is_encoder_decoder else model).eval(), preprocess


def plain_forward(folder, waveform):
    """Run transformers alone, with all hidden states and maps asked for, and what the last block gave."""
    model, preprocess = plain(folder)
    length, first = n_frames(len(waveform)), 0
    if model.config.model_type == "whisper":  # frames centred on sample 320 j: begin 200 - 80 samples earlier
        waveform, first = np.concatenate([np.zeros(120, "f4"), waveform]), 1
    if model.config.model_type == "wav2vec2-bert":  # frames of 560 samples: 80 more on either side
        waveform = np.concatenate([np.zeros(80, "f4"), waveform, np.zeros(80, "f4")])
    inputs = preprocess(waveform, sampling_rate=16_000, return_tensors="pt")
    blocks = getattr(model, "encoder", model).layers
    output = []
    blocks[-1].register_forward_hook(lambda _module, _args, out: output.append(out[0] if type(out) is tuple else out))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # WavLM's of its mask
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
    part = slice(first, first + length)
    maps = torch.stack(out.attentions)[:, 0, :, part, part]
    return SimpleNamespace(
        model=model,
        hidden=[state[0, part] for state in out.hidden_states[:-1]] + [output[0][0, part]],  # hidden_states[-1] varies
        last=out.last_hidden_state[0, part],
        maps=maps / maps.sum(-1, keepdim=True),
    )


def off(ours, theirs):
    """Return the largest difference, as a part of the largest value."""
    ours, theirs = np.asarray(ours, "f8"), np.asarray(theirs, "f8")
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def check(encoded, out):
    """Compare what an encoder gave with a plain forward; not the maps of WavLM, of which there are only means."""
    for layer, (ours, theirs) in enumerate(zip(encoded.hidden, out.hidden, strict=True)):
        assert off(ours, theirs) < 1e-5, layer
    if encoded.final is None:
        assert off(encoded.hidden[-1], out.last) < 1e-5
    else:
        assert off(encoded.final, out.last) < 1e-5
        norm = getattr(out.model, "encoder", out.model).layer_norm
        with torch.inference_mode():
            assert off(norm(torch.tensor(encoded.hidden[-1])), out.last) < 1e-5
        assert off(encoded.hidden[-1], out.last) > 1e-3  # and that norm does something
    mean = out.model.config.model_type == "wavlm"
    for layer, (ours, theirs) in enumerate(zip(encoded.attention, out.maps, strict=True)):
        assert off(ours.mean(0) if mean else ours, theirs[0, ROWS] if mean else theirs[:, ROWS]) < 1e-5, layer


@pytest.mark.parametrize(("name", "form"), ONE_HEADED)
def test_states_and_maps_of_each_form_are_those_of_a_plain_forward(saved, loaded, name, form):
    encoded = loaded(name, form).encode(WAVEFORM, ROWS)
    assert encoded.hidden.shape == (4, 49, 24)
    assert encoded.attention.shape == (3, 4, 4, 49)
    assert encoded.hidden.dtype == encoded.attention.dtype == np.float32
    check(encoded, plain_forward(saved(name, form), WAVEFORM))


@pytest.mark.parametrize("name", FEW)
def test_every_form_of_one_network_is_the_same_encoder(saved, name, tmp_path):
    kind, settings, mask = ARCHITECTURES[name]
    headed = [form for each, form in EVERY_FORM if each == name and form != "Model"]
    encoders = []
    for form in headed:
        model = build(kind, form, **settings)
        inner = model.encoder if form == "ForAudioClassification" else model.base_model
        source = build(kind, seed=7, **settings)
        inner.load_state_dict((source.encoder if form == "ForAudioClassification" else source).state_dict())
        encoders.append(load_encoder(Checkpoint("x", str(save(model, preprocessor(kind, mask), tmp_path / form)))))
    hidden = [encoder.encode(WAVEFORM, ROWS).hidden for encoder in encoders]
    for other, encoder in zip(hidden[1:], encoders[1:], strict=True):
        np.testing.assert_array_equal(other, hidden[0])
        assert encoder.anatomy == encoders[0].anatomy


@pytest.mark.parametrize("name", ["wavlm-post", "wavlm-pre"])
def test_maps_of_wavlm_are_those_that_its_heads_used(saved, loaded, name, monkeypatch):
    forward, heads = torch.nn.functional.multi_head_attention_forward, []

    def spied(*args, **kwargs):
        heads.append(forward(*args, **kwargs, average_attn_weights=False)[1][0])
        return forward(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "multi_head_attention_forward", spied)
    out = plain_forward(saved(name), WAVEFORM)
    monkeypatch.undo()
    attention = loaded(name).encode(WAVEFORM, ROWS).attention
    assert len(heads) == 3
    for ours, theirs, mean in zip(attention, heads, out.maps, strict=True):
        assert off(ours, theirs[:, ROWS]) < 1e-5
        assert off(theirs.mean(0), mean[0]) < 1e-5
        assert off(ours.mean(0), mean[0, ROWS]) < 1e-5
        assert off(ours[0], theirs[1, ROWS]) > 0.1  # the heads differ


def test_maps_of_wavlm_that_do_not_average_to_the_mean_are_refused(saved, monkeypatch):
    encoder = load_encoder(Checkpoint("x", str(saved("wavlm-post"))))
    forward = torch.nn.functional.multi_head_attention_forward

    def other(*args, **kwargs):
        out, maps = forward(*args, **kwargs)
        return out, maps.roll(1, -1)

    monkeypatch.setattr(torch.nn.functional, "multi_head_attention_forward", other)
    with pytest.raises(SslsimError, match=r"'x': heads recomputed differ by \S+ from the mean that transformers gives"):
        encoder.encode(WAVEFORM, ROWS)


def test_an_encoder_that_gives_only_means_over_heads_is_refused(saved, monkeypatch):
    encoder = load_encoder(Checkpoint("x", str(saved("hubert-post"))))
    attention = type(encoder.model.encoder.layers[0].attention)
    forward = attention.forward

    def mean(self, *args, **kwargs):
        out, maps, *more = forward(self, *args, **kwargs)
        return out, maps.mean(1, keepdim=True).expand(-1, 4, -1, -1), *more

    monkeypatch.setattr(attention, "forward", mean)
    with pytest.raises(SslsimError, match="gives only the mean of its 4 attention heads; extract it with queries 0"):
        encoder.encode(WAVEFORM, ROWS)
    assert encoder.encode(WAVEFORM, []).hidden.shape == (4, 49, 24)


POST, PRE, CONFORMER = (True, True, False), (False, False, True), (True, False, True)


@pytest.mark.parametrize(
    ("name", "norms", "normalised", "mask", "features"),
    [
        ("wav2vec2-post", POST, True, False, "group"),
        ("wav2vec2-pre", PRE, True, True, "layer"),
        ("hubert-post", POST, True, False, "group"),
        ("hubert-pre", PRE, True, True, "layer"),
        ("wavlm-post", POST, True, False, "group"),
        ("wavlm-pre", PRE, True, True, "layer"),
        ("data2vec", POST, True, False, "layer"),
        ("unispeech-post", POST, True, False, "group"),
        ("unispeech-pre", PRE, True, True, "layer"),
        ("unispeech-sat-post", POST, True, False, "group"),
        ("unispeech-sat-pre", PRE, True, True, "layer"),
        ("conformer-relative", CONFORMER, True, True, "layer"),
        ("conformer-rotary", CONFORMER, True, True, "layer"),
        ("conformer-group", CONFORMER, True, False, "group"),
        ("wav2vec2-bert", (True, False, False), False, True, "spectrogram"),
        ("whisper", PRE, False, False, "spectrogram"),
    ],
)
def test_what_is_found_out_about_each(saved, loaded, name, norms, normalised, mask, features):
    encoder = loaded(name)
    anatomy = encoder.anatomy
    assert (anatomy.normed, anatomy.input_normed, anatomy.final_norm) == norms
    assert anatomy.input == {"normalised": normalised, "mask": mask, "features": features}
    assert (anatomy.n_layers, anatomy.n_neurons, anatomy.n_heads) == (4, 24, 4)
    assert anatomy.parameters == sum(weight.numel() for weight in encoder.model.parameters())
    twin = load_encoder(Checkpoint("x", str(saved(name)), untrained_seed=0))
    assert twin.anatomy == anatomy
    hidden = twin.encode(WAVEFORM, []).hidden  # where LayerNorms are fresh: mean 0, variance 1
    for layer, normed in enumerate([anatomy.input_normed] + 3 * [anatomy.normed]):
        assert np.allclose(hidden[layer].std(axis=1), 1, atol=0.01) == normed, layer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_makes_as_many_frames(loaded, name):
    for samples, length in {400: 1, 719: 1, 720: 2, 16_159: 50}.items():
        encoded = loaded(name).encode(tone(1, samples), [0, length - 1])
        assert n_frames(samples) == length
        assert encoded.hidden.shape == (4, length, 24)
        assert encoded.attention.shape == (3, 4, 2, length)
        np.testing.assert_allclose(encoded.attention.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["whisper", "wav2vec2-bert"])
@pytest.mark.parametrize("samples", [720, 16_159])
def test_plain_forwards_of_spectrogram_models_at_other_lengths(saved, loaded, name, samples):
    rows = [0, n_frames(samples) - 1]
    out = plain_forward(saved(name), tone(2, samples))
    encoded = loaded(name).encode(tone(2, samples), rows)
    for ours, theirs in zip(encoded.hidden, out.hidden, strict=True):
        assert off(ours, theirs) < 1e-5
    assert off(encoded.attention, out.maps[:, :, rows]) < 1e-5


@pytest.mark.parametrize("name", FEW[:-1])  # Whisper pads to 30 seconds: slow
def test_a_change_in_the_middle_of_a_frame_moves_that_frame_most(saved, name):
    encoders = [load_encoder(Checkpoint("x", str(saved(name)), untrained_seed=seed)) for seed in range(4)]
    before = [encoder.encode(WAVEFORM, []).hidden[0] for encoder in encoders]
    for frame in (0, 48):
        changed = WAVEFORM.copy()
        changed[320 * frame + 195 : 320 * frame + 206] += 0.2
        after = [encoder.encode(changed, []).hidden[0] for encoder in encoders]
        energy = sum(((a - b) ** 2).sum(axis=1) for a, b in zip(after, before, strict=True))
        assert energy.argmax() == frame


def test_whisper_hears_its_seconds_at_most(loaded):
    most = 400 + 320 * 248
    assert loaded("whisper").encode(tone(0, most), [0], [0, 248]).hidden.shape == (4, 2, 24)
    with pytest.raises(SslsimError, match="takes at most 249 frames, not 250; cut the audio .* piece_seconds"):
        loaded("whisper").encode(tone(0, most + 320), [0])


@pytest.mark.parametrize("name", FEW)
def test_only_the_frames_asked_for(loaded, name):
    every = loaded(name).encode(WAVEFORM, range(49))
    some = loaded(name).encode(WAVEFORM, ROWS, [5, 40])
    np.testing.assert_array_equal(some.hidden, every.hidden[:, [5, 40]])
    assert off(some.attention, every.attention[:, :, ROWS]) < 1e-6
    if every.final is not None:
        np.testing.assert_array_equal(some.final, every.final[[5, 40]])


OTHERS = ("data2vec", "wav2vec2-bert", "whisper")  # whose first convolution has no group norm whatever the settings
MASKED_IN_VAIN = ("data2vec", "conformer-relative", "conformer-rotary")  # their later convolutions hear the padding


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_padding_in_a_batch_would_change(saved, name):
    differences = batching(saved(name))
    group = "feat_extract_norm" not in ARCHITECTURES[name][1] and name not in OTHERS
    assert differences["equal length"] < 1e-5
    assert (differences["padded"] > 1e-3) == (name != "whisper")  # which always hears as many seconds
    assert (differences["padded and masked"] > 1e-3) == (group or name in MASKED_IN_VAIN)  # so: one at a time


def batching(folder):
    """Return how much the last hidden state of an utterance differs between batches and the utterance alone."""
    model, preprocess = plain(folder)
    short, same, long = tone(0, 12_000), tone(1, 12_000), tone(2, 24_000)
    length = n_frames(12_000)

    def run(waveforms, mask):
        wanted = {} if folder.name.startswith("whisper") else {"padding": True, "return_attention_mask": True}
        inputs = dict(preprocess(waveforms, sampling_rate=16_000, return_tensors="pt", **wanted))
        if not mask:
            inputs.pop("attention_mask", None)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            return model(**inputs).last_hidden_state[0, : length - 1]

    alone = {mask: run([short], mask) for mask in (False, True)}
    return {
        "padded": off(run([short, long], False), alone[False]),
        "padded and masked": off(run([short, long], True), alone[True]),
        "equal length": off(run([short, same], False), alone[False]),
    }


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def put(folder, weights):
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder, message):
    with pytest.raises(SslsimError, match=message) as caught:
        load_encoder(Checkpoint("x", str(folder)))
    assert "\n" not in str(caught.value)


def encoder_keys(weights):
    """Return the names of the encoder's weights among those of a checkpoint."""
    others = re.compile(r"(lm_head|classifier|projector|proj_out)\b|(model\.)?decoder\.|(\w+\.)?masked_spec_embed$")
    return [key for key in weights if not others.match(key)]


@pytest.mark.parametrize(("name", "form"), SPOILT)
def test_one_missing_weight_is_refused(copied, name, form):
    folder = copied(name, form)
    weights = weights_of(folder)
    gone = next(key for key in weights if "encoder.layers.1." in key and key.endswith("weight"))
    del weights[gone]
    put(folder, weights)
    bare = gone[gone.index("encoder.layers") :]
    refused(folder, rf"checkpoint 'x': the encoder of '.*copy' lacks weights \(1\): (\w+\.)?{bare}$")


@pytest.mark.parametrize(("name", "form"), SPOILT)
def test_every_weight_of_the_encoder_is_looked_for(copied, name, form):
    folder = copied(name, form)
    weights = weights_of(folder)
    gone = encoder_keys(weights)
    kept = gone.pop(len(gone) // 2)
    assert len(gone) > 50
    put(folder, {key: weights[key] for key in weights if key == kept or key not in gone})
    refused(folder, rf"the encoder of '.*copy' lacks weights \({len(gone)}\): ")


@pytest.mark.parametrize(("name", "form"), SPOILT)
def test_weights_without_a_place_are_refused(copied, name, form):
    folder = copied(name, form)
    weights = weights_of(folder)
    one = next(key for key in weights if "encoder.layers.1." in key and key.endswith("weight"))
    put(folder, weights | {one.replace("layers.1", "layers.3"): weights[one].clone()})
    bare = one[one.index("encoder.layers") :].replace("layers.1", "layers.3")
    refused(folder, rf"the encoder of '.*copy' has no place for weights \(1\): (\w+\.)?{bare}")


@pytest.mark.parametrize("name", FEW)
def test_weights_of_other_shapes_are_refused(copied, name):
    folder = copied(name)
    weights = weights_of(folder)
    one = next(key for key in weights if "encoder.layers.1." in key and weights[key].shape == (32, 24))
    put(folder, weights | {one: torch.zeros(33, 24)})
    refused(folder, "checkpoint 'x': .*(other shapes|does not load)")


@pytest.mark.parametrize(
    ("name", "form"), [("wav2vec2-pre", "Model"), ("wavlm-post", "ForCTC"), ("conformer-relative", "ForPreTraining")]
)
def test_old_style_checkpoints_load(copied, loaded, name, form):
    folder = copied(name, form)
    renamed = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights, old = weights_of(folder), {}
    for key, weight in weights.items():
        for new, former in renamed.items():
            key = key.replace(new, former)
        old[key] = weight
    assert len(set(old) - set(weights)) == 2
    (folder / "model.safetensors").unlink()
    torch.save(old, folder / "pytorch_model.bin")
    encoder = load_encoder(Checkpoint("x", str(folder)))
    np.testing.assert_array_equal(encoder.encode(WAVEFORM, []).hidden, loaded(name, form).encode(WAVEFORM, []).hidden)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FEW)
def test_half_precision_stays_near(saved, loaded, name, dtype):
    encoder = load_encoder(Checkpoint("x", str(saved(name))), dtype=dtype)
    half, whole = encoder.encode(WAVEFORM, ROWS), loaded(name).encode(WAVEFORM, ROWS)
    assert encoder.anatomy == loaded(name).anatomy
    assert half.hidden.dtype == half.attention.dtype == np.float32
    assert 0 < off(half.hidden, whole.hidden) < 0.1
    assert 0 < off(half.attention, whole.attention) < 0.1
    np.testing.assert_allclose(half.attention.sum(axis=-1), 1, atol=1e-6)  # as rounded they are off by up to 0.004


def test_unknown_precision_is_refused(saved):
    with pytest.raises(SslsimError, match="dtype is 'int8'; known: float32, bfloat16, float16"):
        load_encoder(Checkpoint("x", str(saved("hubert-post"))), dtype="int8")


def test_an_encoder_that_pools_in_time_after_its_blocks_is_refused(tmp_path):
    """Whisper's preprocessor asks for 5 seconds always: half as many frames would do for a short sound."""
    sizes = {name: WHISPER[f"encoder_{name[8:]}"] for name in ("encoder_layers", "encoder_attention_heads")}
    config = transformers.Qwen2AudioEncoderConfig(
        d_model=24, encoder_ffn_dim=32, max_source_positions=250, num_mel_bins=80, **sizes
    )
    folder = save(transformers.AutoModel.from_config(config), preprocessor("Whisper", False), tmp_path)
    refused(folder, r"gives hidden states of several shapes, \(125, 24\), \(250, 24\), which is not supported")


def test_an_encoder_that_pools_in_time_before_its_blocks_is_refused(tmp_path, monkeypatch):
    whisper = transformers.models.whisper.modeling_whisper.WhisperEncoder
    begin = whisper.__init__
    monkeypatch.setattr(whisper, "__init__", lambda self, config: (begin(self, config), slower(self))[0])
    folder = save(build("Whisper", max_source_positions=125), preprocessor("Whisper", False), tmp_path)
    refused(folder, "gave 125 frames where 250 were expected, one every 20 ms; this architecture is not supported")


def slower(encoder):
    encoder.conv2.stride = (4,)


HINTS = [{"_attn_implementation": kind} for kind in ("sdpa", "flash_attention_2", "nonsense", {"": "sdpa"})]
HINTS += [{"attn_implementation": "sdpa"}, {"_attn_implementation_internal": "sdpa"}, {"return_dict": False}]
HINTS += [{"output_attentions": True, "_attn_implementation": "sdpa"}]


@pytest.mark.parametrize("hint", HINTS, ids=str)
@pytest.mark.parametrize("name", FEW)
def test_hints_in_the_settings_do_not_decide(copied, loaded, name, hint):
    folder = copied(name)
    edit(folder / "config.json", **hint)
    encoded, expected = (
        load_encoder(Checkpoint("x", str(folder))).encode(WAVEFORM, ROWS),
        loaded(name).encode(WAVEFORM, ROWS),
    )
    np.testing.assert_array_equal(encoded.hidden, expected.hidden)
    np.testing.assert_array_equal(encoded.attention, expected.attention)
    twin = load_encoder(Checkpoint("x", str(folder), untrained_seed=0))
    assert twin.encode(WAVEFORM, ROWS).attention.shape == expected.attention.shape


def test_a_text_model_is_refused(tmp_path):
    model = build("Bert")
    refused(
        save(model, preprocessor("Bert", False), tmp_path),
        "a 'bert' model is not a speech encoder with blocks of attention",
    )


def test_an_unknown_preprocessor_is_refused(copied):
    folder = copied("wav2vec2-post")
    transformers.EncodecFeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    refused(folder, "has a preprocessor EncodecFeatureExtractor, whose frames are not known here")


@pytest.mark.parametrize("name", FEW)
def test_untrained_twins_of_each(saved, loaded, name, tmp_path):
    for file in ("config.json", "preprocessor_config.json"):
        shutil.copy(saved(name) / file, tmp_path)
    encoders = [load_encoder(Checkpoint("x", str(tmp_path), untrained_seed=seed)) for seed in (5, 5, 6)]
    a, b, c = (encoder.encode(WAVEFORM, ROWS).hidden for encoder in encoders)
    np.testing.assert_array_equal(a, b)
    assert off(a, c) > 1e-3
    assert encoders[0].anatomy == loaded(name).anatomy


BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3_072,
    "conv_dim": [512] * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "initializer_range": 0.02,
}
LARGE = BASE | {"hidden_size": 1_024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4_096}
WHISPER_BASE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2_048}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("wav2vec2-post", BASE, (13, 99, 768)),
        ("hubert-pre", LARGE, (25, 99, 1_024)),
        ("wavlm-post", BASE, (13, 99, 768)),
        ("data2vec", BASE | {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}, (13, 99, 768)),
        ("conformer-relative", LARGE, (25, 99, 1_024)),
        ("wav2vec2-bert", LARGE | {"num_hidden_layers": 8}, (9, 99, 1_024)),  # of 24, for memory and time
        ("whisper", WHISPER_BASE | {"max_source_positions": 1_500}, (7, 99, 512)),
    ],
)
def test_networks_of_real_size(name, settings, shape, tmp_path):
    kind, own, mask = ARCHITECTURES[name]
    folder = tmp_path / name
    save(build(kind, **own | settings), preprocessor(kind, mask, chunk=30), folder)
    gc.collect()
    waveform = tone(3, 32_000)
    try:
        encoded = load_encoder(Checkpoint("x", str(folder))).encode(waveform, ROWS)
        gc.collect()
        assert encoded.hidden.shape == shape
        check(encoded, plain_forward(folder, waveform))
    finally:
        shutil.rmtree(folder)
        gc.collect()
