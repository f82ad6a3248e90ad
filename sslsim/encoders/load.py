"""A checkpoint in: its encoder is loaded, and tried on a short sound.

What transformers' many encoders have in common is found by looking: the blocks, the attention of each, whether a
LayerNorm makes their output, whether another follows the last one. What does not behave is refused.
"""

import json
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sslsim.encoders.encoder import SITES, Anatomy, Encoder, Grid, Hooks, LogMel, heads_of, ignore_widgets
from sslsim.encoders.files import TOKENIZER, first_line, locate, named, preprocessor_folder, stored
from sslsim.encoders.lineup import LOG_MEL, Checkpoint, problem
from sslsim.errors import SslsimError
from sslsim.speech.recording import HOP, SAMPLE_RATE, Clock

RATES = (SAMPLE_RATE, 24_000)  # samples a second that encoders may take
SHORTEST, LONGEST = 13.3, 80.0  # milliseconds from one frame to the next
DTYPES = ("float32", "bfloat16", "float16")
_LOADING = threading.Lock()  # random weights and transformers' verbosity are global to the process
_WRAPPERS = re.compile(r"((module|_orig_mod|model)\.)+")  # of data parallel, compiled and other models around a model
# encoders inside other models: their classes, if their settings do not tell, and where their weights are
_INSIDE = {
    "speech-encoder-decoder": ("", r"encoder\."),
    "speecht5": ("SpeechT5EncoderWithSpeechPrenet", r"(speecht5\.)?encoder\."),
    "seamless_m4t_v2": ("SeamlessM4Tv2SpeechEncoder", r"speech_encoder\."),
}
_TRIAL = 9_999  # samples of the sound that an encoder is tried on: 30 frames, and as much as can be left over


def load_encoder(
    checkpoint: Checkpoint, device: str = "cpu", dtype: str = "float32", site: str = "hidden"
) -> Encoder | LogMel:
    """Load the encoder of a checkpoint, without the head that finetuning may have added, and try it.

    The class comes from ``config.json``, never from a name. Attention is eager, the only kind that has maps to give,
    and weights are loaded in float32 and then brought to `dtype`, whatever the files say. With an ``untrained_seed``
    they are those that transformers draws for the architecture, and the caller's own random state stays as it was. At
    the `site` ``ffn`` it gives the units of feed-forward layers in place of hidden states, and no attention. What is
    not a speech encoder of frames every 13.3 to 80 ms, or lacks weights of it or has others, is an error.
    """
    for name, value, known in (("dtype", dtype, DTYPES), ("site", site, SITES)):
        if value not in known:
            raise SslsimError(f"{name} is {value!r}; known: {', '.join(known)}")
    if checkpoint.source == LOG_MEL:
        if site == "ffn":
            raise problem(checkpoint, "a spectrogram has no feed-forward layers; leave it out, or take site hidden")
        return LogMel(checkpoint)
    folder = locate(checkpoint)
    with _LOADING:
        model, preprocess = _load(checkpoint, folder)
    import torch

    taken = _input_of(model, preprocess) | _adapters(model, folder)
    blocks = _blocks(checkpoint, model)
    clock, grid = _grid_of(checkpoint, model, preprocess)
    try:
        model = model.to(device, getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:
        raise SslsimError(f"device {device!r} cannot be used: {first_line(error)}") from error
    shape = len(blocks) + 1, int(model.config.hidden_size), heads_of(blocks[0])
    parameters = sum(weight.numel() for weight in model.parameters())
    anatomy = Anatomy(*shape, taken, final_norm=True, parameters=parameters, clock=clock)
    hooks = Hooks(checkpoint, blocks, anatomy.n_heads, site)
    encoder = _tried(Encoder(checkpoint, anatomy, device, dtype, model, preprocess, grid, hooks))
    if site == "hidden":
        return encoder
    anatomy = Anatomy(len(blocks), hooks.wide, 0, taken, parameters=parameters, clock=clock)
    return replace(encoder, site=site, anatomy=anatomy)


def _tried(encoder: Encoder) -> Encoder:
    """Run a short sound, check what comes, and note which states are outputs of a LayerNorm."""
    import torch

    normed: list[torch.Tensor] = []
    modules = [module for module in encoder.model.modules() if type(module) is torch.nn.LayerNorm]
    hooks = [module.register_forward_hook(lambda _module, _args, out: normed.append(out[0])) for module in modules]
    sound = np.random.default_rng(0).standard_normal(_TRIAL, dtype="f4") / np.float32(10)
    part = slice(encoder.grid.first, encoder.grid.first + encoder.anatomy.clock.n_frames(_TRIAL))
    try:
        states, _, last = encoder.run(sound, np.zeros(0, np.int64))
    except (RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, SslsimError):
            raise
        raise problem(encoder.checkpoint, f"does not run in {encoder.dtype}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    outputs = [out[part] for out in normed if out.shape[1:] == last.shape[1:]]
    norms = [any(torch.equal(out, state) for out in outputs) for state in states]
    found = replace(encoder.anatomy, n_neurons=int(last.shape[1]), normed=all(norms[1:]), input_normed=norms[0])
    return replace(encoder, anatomy=replace(found, final_norm=not torch.equal(last, states[-1])))


def _load(checkpoint: Checkpoint, folder: Path) -> tuple[Any, Any]:
    # else transformers asks the hub, in a thread of its own, to convert pickled weights
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    # else oneDNN keeps what it compiles for every length of utterance: 100 MB more after an hour of them
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
    ignore_widgets()
    import torch
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    with _quiet():
        try:
            preprocess = AutoFeatureExtractor.from_pretrained(preprocessor_folder(folder), trust_remote_code=False)
            hints: dict[str, Any] = {"return_dict": True, "output_attentions": False}
            config = _mert(checkpoint, folder, hints)
            config = config or AutoConfig.from_pretrained(folder, trust_remote_code=False, **hints)
            name, inside = _INSIDE.get(config.model_type, ("", ""))
            module = f"transformers.models.{config.model_type}.modeling_{config.model_type}"
            kind: Any = getattr(import_module(module), name) if name else AutoModel
            config.output_attentions = config.model_type == "speecht5"  # which gives none else
            config = config.encoder if inside and not name else config
            options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
            if checkpoint.untrained_seed is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(checkpoint.untrained_seed)
                    model = (kind.from_config if kind is AutoModel else kind._from_config)(config, **options)
            else:
                model = _trained(checkpoint, folder, kind, inside, {"config": config, **options})
        except SslsimError:
            raise
        except Exception as error:  # config, tensors and pickles each fail in their own way
            raise problem(checkpoint, f"{str(folder)!r} does not load: {first_line(error)}") from error
    within = (model.config.is_encoder_decoder and not inside) or hasattr(model.config, "encoder_config")
    return (model.get_encoder() if within else model).eval(), preprocess


def _mert(checkpoint: Checkpoint, folder: Path, hints: dict[str, Any]) -> Any:
    """Return the settings of a MERT checkpoint, which transformers lacks, as of the HuBERT that it is; else None."""
    from transformers import HubertConfig

    if named(folder / "config.json", "model_type") != {"mert_model"}:
        return None
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if odd := [key for key in ("feature_extractor_cqt", "deepnorm") if settings.get(key)]:
        raise problem(checkpoint, f"is a MERT model with {odd[0]}, which needs its authors' code; leave it out")
    return HubertConfig.from_dict(settings | {"model_type": "hubert"} | hints)


def _trained(checkpoint: Checkpoint, folder: Path, kind: Any, inside: str, options: dict[str, Any]) -> Any:
    """Load weights; it is an error if any of the encoder is missing or has another shape, or if there is another."""
    options |= {"weights_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    old = {"mask_time_emb_vector": "masked_spec_embed"}
    names = ({f"^{inside}": ""} if inside else {}) | old
    model, info = kind.from_pretrained(folder, key_mapping=names, **options)
    wrapped = {match[0] if (match := _WRAPPERS.match(key)) else "" for key in info["unexpected_keys"]}
    if info["missing_keys"] and len(wrapped) == 1 and wrapped != {""}:
        names = {f"^{re.escape(wrapped.pop())}{inside}": ""} | old
        model, info = kind.from_pretrained(folder, key_mapping=names, **options)
    parts, prefix = dict(model.named_children()), f"{model.base_model_prefix}."
    blocks = {key for key in model.state_dict() if re.search(r"\.\d+\.", key) and not inside}

    def of_encoder(key: str) -> bool:  # or of a second one; what stands beside them is a head
        first, *more = key.removeprefix(prefix).split(".")
        return first in parts and len(more) > 1 or any(key[dot.end() :] in blocks for dot in re.finditer(r"\.", key))

    counts, floats, kept = Counter[str](), dict[str, bool](), dict(model.named_parameters())
    for key, real in stored(checkpoint, folder):
        for pattern, name in names.items():
            key = re.sub(pattern, name, key)
        counts[key := key.removeprefix(prefix)] += key in kept
        floats[key] = real
    faults = {
        "has two of the": {key for key, times in counts.items() if times > 1},
        "has no floating-point numbers for": {key for key in kept if not floats.get(key, True)},
        "lacks": {key for key in info["missing_keys"] if not re.match(r"decoder\.|masked_spec_embed$", key)},
        "has no place for": set(filter(of_encoder, info["unexpected_keys"])),
        "has other shapes for": {key[0] for key in info["mismatched_keys"]},
    }
    for fault, keys in faults.items():
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            if any(re.search(r"conv_layers\.[1-9]\d*\.layer_norm", key) for key in keys):
                some += "; feat_extract_norm and do_stable_layer_norm in config.json look wrong"
            elif wrapped := wrapped - {"", prefix}:
                some += f"; others begin with {wrapped.pop()!r}: save the model inside"
            raise problem(checkpoint, f"the encoder of {str(folder)!r} {fault} weights ({len(keys)}): {some}")
    return model


def _blocks(checkpoint: Checkpoint, model: Any) -> Any:
    within = getattr(model, "encoder", getattr(model, "wrapped_encoder", model))
    blocks = getattr(within, "layers", None) or getattr(getattr(within, "encoder", None), "layer", None)
    takes_sound = model.main_input_name in ("input_values", "input_features")
    if not takes_sound or not blocks or not heads_of(blocks[0]):
        kind = model.config.model_type
        raise problem(checkpoint, f"a {kind!r} model is not a speech encoder with blocks of attention")
    return blocks


def _grid_of(checkpoint: Checkpoint, model: Any, preprocess: Any) -> tuple[Clock, Grid]:
    """Return when the frames of an encoder are, and how its own are brought there; an error where no rule is known."""
    part = getattr(model.config, "encoder_config", model.config)
    kind, rate = type(preprocess).__name__, getattr(preprocess, "sampling_rate", None)
    of_waveforms = kind in ("Wav2Vec2FeatureExtractor", "SpeechT5FeatureExtractor")
    allowed = RATES if of_waveforms else (SAMPLE_RATE,)
    if rate is None or rate not in allowed:
        raise problem(checkpoint, f"wants audio at {rate} Hz, not {' or '.join(map(str, allowed))}")
    if of_waveforms:
        strides, squeeze = list(part.conv_stride), getattr(part, "squeeze_factor", 1)
        steps = np.cumprod([1, *strides]).tolist()
        needed = 1 + sum((width - 1) * step for width, step in zip(part.conv_kernel, steps, strict=False))
        needed += (squeeze - 1) * steps[-1]
        clock = Clock(squeeze * steps[-1], needed, needed // 2, rate)
        return _within(checkpoint, clock), Grid(squeezed=hasattr(getattr(model, "encoder", None), "upsample"))
    if kind == "WhisperFeatureExtractor":  # its frame j is centred on sample 320 j, and 30 s are always taken
        return Clock(), Grid(lead=120, first=1, always=preprocess.n_samples // HOP)
    if kind == "SeamlessM4TFeatureExtractor":  # frame j covers samples [320 j, 320 j + 560), in two windows
        return Clock(), Grid(lead=80, tail=80, beyond=1)
    if kind == "ParakeetFeatureExtractor":  # windows centred on every 160th sample, of which convolutions keep one in 8
        hop = preprocess.hop_length * part.subsampling_factor
        return _within(checkpoint, Clock(hop, preprocess.hop_length, 0)), Grid(beyond=1)
    raise problem(checkpoint, f"has a preprocessor {kind}, whose frames are not known here")


def _within(checkpoint: Checkpoint, clock: Clock) -> Clock:
    if not SHORTEST <= clock.milliseconds <= LONGEST:
        told = f"{SHORTEST:g} to {LONGEST:g} ms are supported"
        raise problem(checkpoint, f"makes one frame every {clock.milliseconds:g} ms; {told}")
    return clock


def _input_of(model: Any, preprocess: Any) -> dict[str, Any]:
    features = getattr(model.config, "feat_extract_norm", None)
    if model.main_input_name == "input_features":
        features = "spectrogram"
    elif features is None and hasattr(model, "feature_extractor"):
        features = "layer"  # data2vec has no choice
    flags = {"normalised": "do_normalize", "mask": "return_attention_mask"}
    return {name: bool(getattr(preprocess, flag, False)) for name, flag in flags.items()} | {"features": features}


def _adapters(model: Any, folder: Path) -> dict[str, str]:
    """Take out what add_adapter put after the blocks, and say so; say of which language's adapters are in them."""
    if getattr(model, "adapter", None) is not None:
        model.adapter = None
        if getattr(model.config, "use_intermediate_ffn_before_adapter", False):
            model.intermediate_ffn = None
        return {"adapter": "left out, after the blocks"}
    language = ", ".join(named(folder / TOKENIZER, "target_lang")) or "not named"
    inside = getattr(model.config, "adapter_attn_dim", None)
    return {"adapter": f"in the blocks, language: {language}"} if inside else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' log lines, bars and warnings off the terminal while loading; errors still raise."""
    from transformers.utils import logging

    with ExitStack() as after, warnings.catch_warnings(action="ignore"):
        after.callback(logging.set_verbosity, logging.get_verbosity())
        if logging.is_progress_bar_enabled():
            after.callback(logging.enable_progress_bar)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
