"""Names of weights that public checkpoints have, encoders inside other models, and adapters."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, tone
from test_architectures import (
    HEADS,
    ROWS,
    STABLE,
    build,
    check,
    edit,
    plain_forward,
    preprocessor,
    put,
    refused,
    save,
    weights_of,
)
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2SpeechEncoder
from transformers.models.speecht5.modeling_speecht5 import SpeechT5EncoderWithSpeechPrenet

from sslsim.encoders.encoder import Encoder
from sslsim.encoders.files import pinned
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError

WAVEFORM = tone(0, 16_000)
PREFIXES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec_audio": "Data2VecAudio"}


def encoder(folder) -> Encoder:
    return load_encoder(Checkpoint("x", str(folder)))


def finetuned(folder, prefix="wav2vec2", **settings):
    kind = PREFIXES[prefix]
    small = {"num_conv_pos_embeddings": 3} if kind == "Data2VecAudio" else {}
    return save(build(kind, "ForCTC", **small, **settings), preprocessor(kind, False), folder)


def states(folder):
    return encoder(folder).encode(WAVEFORM, ROWS).hidden


@pytest.mark.parametrize("change", ["old mask", "module.", "_orig_mod.", "model.", "module.model.", "base model."])
def test_old_and_wrapped_names_are_those_of_the_same_weights(tmp_path, change):
    folder = finetuned(tmp_path)
    whole, weights = states(folder), weights_of(folder)
    if change == "old mask":
        put(folder, {key.replace("masked_spec_embed", "mask_time_emb_vector"): w for key, w in weights.items()})
        assert "wav2vec2.mask_time_emb_vector" in weights_of(folder)
    elif change == "base model.":
        bare = {key.removeprefix("wav2vec2."): w for key, w in weights.items() if not key.startswith("lm_head")}
        put(folder, {f"model.{key}": w for key, w in bare.items()})
    else:
        put(folder, {change + key: w for key, w in weights.items()})
    np.testing.assert_array_equal(states(folder), whole)


def test_a_weight_that_wrapped_names_lack_is_missed(tmp_path):
    folder = finetuned(tmp_path)
    weights = {f"module.{key}": w for key, w in weights_of(folder).items()}
    gone = "encoder.layers.1.attention.q_proj.weight"
    put(folder, {key: w for key, w in weights.items() if not key.endswith(gone)})
    refused(folder, rf"lacks weights \(1\): {gone}$")


def test_names_that_are_wrapped_in_part_are_told_with_the_cure(tmp_path):
    folder = finetuned(tmp_path)
    put(folder, {f"module.{key}": w for key, w in weights_of(folder).items()} | {"criterion.weight": torch.ones(2)})
    refused(folder, r"lacks weights \(66\): .*; others begin with 'module.': save the model inside$")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_stands_beside_the_prefix_of_the_encoder_is_a_head(tmp_path, prefix):
    folder = finetuned(tmp_path, prefix)
    whole, weights = states(folder), weights_of(folder)
    names = ("head.0.weight", "mlp.layers.0.bias", "pooling_layer.query", "score.weight", "decoder.layers.0.q.weight")
    put(folder, weights | {name: torch.ones(3) for name in names} | {f"{prefix}.quantizer.codevectors": torch.ones(2)})
    np.testing.assert_array_equal(states(folder), whole)
    one = f"{prefix}.encoder.layers.2.attention.q_proj.weight"
    put(folder, weights | {one.replace("layers.2", "layers.3"): weights[one].clone()})
    refused(folder, rf"has no place for weights \(1\): {prefix}.encoder.layers.3.attention.q_proj.weight$")


@pytest.mark.parametrize("second", ["hubert.", "teacher.wav2vec2.", "ema."])
def test_a_second_encoder_is_refused(tmp_path, second):
    folder = finetuned(tmp_path)
    weights = weights_of(folder)
    more = {key.replace("wav2vec2.", second, 1): w.clone() for key, w in weights.items() if key.startswith("wav2vec2.")}
    put(folder, weights | more)
    refused(folder, rf"has no place for weights \(\d+\): {second}encoder.layers.0.attention.k_proj.bias, ")


@pytest.mark.parametrize("around", ["", "module."])
@pytest.mark.parametrize("part", ["", "encoder.layers.0."])
def test_two_names_for_one_weight_are_refused(tmp_path, part, around):
    """The library would take whichever comes last, without a word."""
    folder = finetuned(tmp_path)
    weights = {around + key: w for key, w in weights_of(folder).items()}
    bare = {key.replace("wav2vec2.", "", 1): 2 * w for key, w in weights.items() if f"wav2vec2.{part}" in key}
    put(folder, weights | bare)
    refused(folder, rf"has two of the weights \({len(bare)}\): {part or 'encoder.'}")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_that_are_no_plain_floating_point_numbers_are_refused(tmp_path, dtype):
    folder = finetuned(tmp_path)
    weights, one = weights_of(folder), "wav2vec2.encoder.layers.0.attention.q_proj.weight"
    put(folder, weights | {one: weights[one].to(dtype), "lm_head.bias": weights["lm_head.bias"].to(dtype)})
    refused(folder, rf"has no floating-point numbers for weights \(1\): {one.removeprefix('wav2vec2.')}$")


def test_a_folder_with_the_name_of_a_model_of_the_hub_is_no_answer(tmp_path, monkeypatch):
    finetuned(tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    for use in (encoder, lambda source: pinned(Checkpoint("x", source))):
        with pytest.raises(SslsimError, match="is a model of the hub or the folder here; write './org/tiny'"):
            use("org/tiny")
    assert encoder("./org/tiny").anatomy.n_layers == 4


def test_a_link_to_a_checkpoint_of_a_trainer_has_the_preprocessor_above(tmp_path):
    folder = finetuned(tmp_path / "run" / "checkpoint-500")
    (folder / "preprocessor_config.json").rename(tmp_path / "run" / "preprocessor_config.json")
    (tmp_path / "last").symlink_to(folder)
    np.testing.assert_array_equal(states(tmp_path / "last"), states(folder))


@pytest.mark.parametrize(("true", "said"), [(STABLE, "group"), ({}, "layer")])
def test_settings_that_contradict_the_weights_are_named(tmp_path, true, said):
    folder, stable = finetuned(tmp_path, **true), said == "layer"
    edit(folder / "config.json", feat_extract_norm=said, do_stable_layer_norm=stable)
    refused(folder, "weights .*; feat_extract_norm and do_stable_layer_norm in config.json look wrong$")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("Wav2Vec2", STABLE), ("Wav2Vec2Bert", {"use_intermediate_ffn_before_adapter": True}), ("WavLM", {})],
)
@pytest.mark.parametrize("form", ["Model", "ForCTC"])
def test_add_adapter_is_left_out_and_said(tmp_path, kind, settings, form):
    model = build(kind, form, add_adapter=True, output_hidden_size=24, **settings)
    folder = save(model, preprocessor(kind, True), tmp_path / "with")
    without = build(kind, **settings | {"use_intermediate_ffn_before_adapter": False})
    missing, _ = without.load_state_dict(model.base_model.state_dict(), strict=False)
    assert missing == []
    ours, theirs = encoder(folder), encoder(save(without, preprocessor(kind, True), tmp_path / "without"))
    assert ours.anatomy.input == theirs.anatomy.input | {"adapter": "left out, after the blocks"}
    a, b = (each.encode(WAVEFORM, ROWS) for each in (ours, theirs))
    np.testing.assert_array_equal(a.hidden, b.hidden)
    np.testing.assert_array_equal(a.attention, b.attention)
    assert (a.final is None) == (b.final is None)


def test_the_language_of_an_adapter_in_the_blocks_is_said(tmp_path):
    folder = finetuned(tmp_path, adapter_attn_dim=4, **STABLE)
    assert encoder(folder).anatomy.input["adapter"] == "in the blocks, language: not named"
    (folder / "tokenizer_config.json").write_text(json.dumps({"target_lang": "tur"}))
    assert encoder(folder).anatomy.input["adapter"] == "in the blocks, language: tur"
    check(encoder(folder).encode(WAVEFORM, ROWS), plain_forward(folder, WAVEFORM))


SPEECHT5 = {"hidden_size": 24, "conv_dim": [12] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
SPEECHT5 |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")} | {"encoder_layers": 3}
SPEECHT5 |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_layers": 1, "vocab_size": 60}
SEAMLESS = {f"{part}_layers": 1 for part in ("encoder", "decoder", "t2u_encoder", "t2u_decoder")}
SEAMLESS |= {f"{part}_attention_heads": 4 for part in ("encoder", "decoder", "speech_encoder")}
SEAMLESS |= {f"t2u_{part}_attention_heads": 4 for part in ("encoder", "decoder")} | {"hidden_size": 24}
SEAMLESS |= {"speech_encoder_layers": 3, "speech_encoder_intermediate_size": 32, "conv_depthwise_kernel_size": 5}
SEAMLESS |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder", "t2u_encoder", "t2u_decoder")}
SEAMLESS |= {"vocab_size": 60, "t2u_vocab_size": 60, "unit_hifi_gan_vocab_size": 60, "upsample_initial_channel": 64}
SEAMLESS |= {"unit_embed_dim": 8, "lang_embed_dim": 4, "spkr_embed_dim": 4}


def whole_model(form):
    """Return a model that has an encoder inside, that encoder, and its preprocessor."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "SpeechEncoderDecoderModel":
            bart = {"d_model": 24, "decoder_layers": 1, "decoder_ffn_dim": 32, "decoder_attention_heads": 4}
            bart = transformers.BartConfig(**bart, vocab_size=60, is_decoder=True, add_cross_attention=True)
            parts = transformers.WavLMConfig(**TINY | HEADS), bart
            config = transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
            model = transformers.SpeechEncoderDecoderModel(config=config).eval()
            return model, model.encoder, preprocessor("WavLM", False)
        if form.startswith("SpeechT5"):
            model = getattr(transformers, form)(transformers.SpeechT5Config(**SPEECHT5)).eval()
            return model, model.speecht5.encoder, transformers.SpeechT5FeatureExtractor()
        model = getattr(transformers, form)(transformers.SeamlessM4Tv2Config(**SEAMLESS)).eval()
        return model, model.speech_encoder, transformers.SeamlessM4TFeatureExtractor()


FORMS = ["SpeechT5ForSpeechToText", "SpeechT5ForSpeechToSpeech", "SpeechEncoderDecoderModel"]


@pytest.mark.parametrize("form", [*FORMS, "SeamlessM4Tv2Model", "SeamlessM4Tv2ForSpeechToText"])
def test_an_encoder_inside_another_model_is_taken_out(tmp_path, form):
    model, inner, preprocess = whole_model(form)
    folder = save(model, preprocess, tmp_path)
    found = encoder(folder)
    assert type(found.model) is type(inner)
    own = {key: w for key, w in inner.state_dict().items() if not key.startswith("adapter.")}
    for key, weight in found.model.state_dict().items():
        assert torch.equal(weight, own.pop(key)), key
    assert own == {}
    encoded = found.encode(WAVEFORM, ROWS)
    assert encoded.hidden.shape == (4, 49, 24)
    assert encoded.attention.shape == (3, 4, 4, 49)
    np.testing.assert_allclose(encoded.attention.sum(axis=-1), 1, atol=1e-5)
    twin = load_encoder(Checkpoint("x", str(folder), untrained_seed=0))
    assert twin.encode(WAVEFORM, ROWS).hidden.shape == (4, 49, 24)
    weights = weights_of(folder)
    put(folder, {f"module.{key}": weight for key, weight in weights.items()})
    np.testing.assert_array_equal(states(folder), encoded.hidden)
    gone = next(key for key in weights if "encoder.layers.1." in key and key.startswith(("sp", "encoder")))
    put(folder, {key: weight for key, weight in weights.items() if key != gone})
    refused(folder, r"lacks weights \(1\): \S+layers.1.\S+$")


def test_the_encoder_of_speecht5_and_of_seamless_runs_as_transformers_runs_it(tmp_path):
    for form, kind in (
        ("SpeechT5ForSpeechToText", SpeechT5EncoderWithSpeechPrenet),
        ("SeamlessM4Tv2ForSpeechToText", SeamlessM4Tv2SpeechEncoder),
    ):
        model, inner, preprocess = whole_model(form)
        assert type(inner) is kind
        encoded = encoder(save(model, preprocess, tmp_path / form)).encode(WAVEFORM, ROWS)
        sound, inner.adapter = WAVEFORM, None
        if form.startswith("Seamless"):
            sound = np.concatenate([np.zeros(80, "f4"), sound, np.zeros(80, "f4")])
        with torch.inference_mode():
            inner.set_attn_implementation("eager")
            inputs = preprocess(sound, sampling_rate=16_000, return_tensors="pt")
            out = inner(**inputs, output_hidden_states=True)
        last = encoded.hidden[-1] if encoded.final is None else encoded.final
        np.testing.assert_allclose(last, out.last_hidden_state[0, :49].numpy(), atol=1e-5)
        for ours, theirs in zip(encoded.hidden[:-1], out.hidden_states, strict=False):
            np.testing.assert_allclose(ours, theirs[0, :49].numpy(), atol=1e-5)


def test_a_speecht5_that_hears_text_is_refused(tmp_path):
    model = transformers.SpeechT5ForTextToSpeech(transformers.SpeechT5Config(**SPEECHT5))
    folder = save(model, transformers.SpeechT5FeatureExtractor(), tmp_path)
    refused(folder, r"lacks weights \(\d+\): prenet.feature_encoder.conv_layers.0.conv.weight, ")
