"""A checkpoint in: its encoder is loaded, and tried on a short sound.

What transformers' many encoders have in common is found by looking: the blocks, the attention of each, whether a
LayerNorm makes their output, whether another follows the last one. What does not behave is refused.
"""

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sslsim.encoders.encoder import Anatomy, Encoder, Grid, Hooks, LogMel, attention_of, ignore_widgets
from sslsim.encoders.files import first_line, locate
from sslsim.encoders.lineup import LOG_MEL, Checkpoint, problem
from sslsim.errors import SslsimError
from sslsim.speech.recording import HOP, SAMPLE_RATE, n_frames

DTYPES = ("float32", "bfloat16", "float16")
_LOADING = threading.Lock()  # random weights and transformers' verbosity are global to the process
# weights that a checkpoint may have beyond its encoder: heads, quantizer and their projections
_HEADS = re.compile(
    r"((\w+\.)?(lm_head|classifier|projector|layer_weights|quantizer|project_q|project_hid|final_proj"
    r"|label_embs_concat|label_embeddings_concat|speaker_proj|ctc_proj|layer_norm_for_extract|tdnn|objective|proj_out"
    r"|masked_spec_embed))\b|feature_extractor\.(weight|bias)$"
)
_DECODER = re.compile(r"(model\.)?decoder\.")
_TRIAL = 9_999  # samples of the sound that an encoder is tried on: 30 frames, and as much as can be left over


def load_encoder(checkpoint: Checkpoint, device: str = "cpu", dtype: str = "float32") -> Encoder | LogMel:
    """Load the encoder of a checkpoint, without the head that finetuning may have added, and try it.

    The class comes from ``config.json``, never from a name. Attention is eager, the only kind that has maps to give,
    and weights are loaded in float32 and then brought to `dtype`, whatever the files say. With an ``untrained_seed``
    they are those that transformers draws for the architecture, and the caller's own random state stays as it was. What
    is not a speech encoder of 20 ms frames, or lacks weights of it or has others, is an error.
    """
    if dtype not in DTYPES:
        raise SslsimError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    if checkpoint.source == LOG_MEL:
        return LogMel(checkpoint)
    folder = locate(checkpoint)
    with _LOADING:
        model, preprocess = _load(checkpoint, folder)
    import torch

    blocks = _blocks(checkpoint, model)
    grid = _grid_of(checkpoint, model, preprocess)
    try:
        model = model.to(device, getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:
        raise SslsimError(f"device {device!r} cannot be used: {first_line(error)}") from error
    shape = len(blocks) + 1, int(model.config.hidden_size), int(model.config.num_attention_heads)
    parameters = sum(weight.numel() for weight in model.parameters())
    anatomy = Anatomy(*shape, _input_of(model, preprocess), final_norm=True, parameters=parameters)
    hooks = Hooks(checkpoint, blocks, anatomy.n_heads)
    return _tried(Encoder(checkpoint, anatomy, device, dtype, model, preprocess, grid, hooks))


def _tried(encoder: Encoder) -> Encoder:
    """Run a short sound, check what comes, and note which states are outputs of a LayerNorm."""
    import torch

    normed: list[torch.Tensor] = []
    modules = [module for module in encoder.model.modules() if type(module) is torch.nn.LayerNorm]
    hooks = [module.register_forward_hook(lambda _module, _args, out: normed.append(out[0])) for module in modules]
    sound = np.random.default_rng(0).standard_normal(_TRIAL, dtype="f4") / np.float32(10)
    part = slice(encoder.grid.first, encoder.grid.first + n_frames(_TRIAL))
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

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
    with _quiet():
        try:
            preprocess = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
            hints: dict[str, Any] = {"return_dict": True, "output_attentions": False}
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **hints)
            if checkpoint.untrained_seed is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(checkpoint.untrained_seed)
                    model, info = AutoModel.from_config(config, **options), {}
            else:
                more = {"weights_only": True, "output_loading_info": True}
                model, info = AutoModel.from_pretrained(folder, config=config, **more, **options)
        except Exception as error:  # config, tensors and pickles each fail in their own way
            raise problem(checkpoint, f"{str(folder)!r} does not load: {first_line(error)}") from error
    decodes = model.config.is_encoder_decoder
    missing = {key for key in info.get("missing_keys", ()) if not (decodes and _DECODER.match(key))}
    faults = {
        "lacks": missing - {"masked_spec_embed"},
        "has no place for": {key for key in info.get("unexpected_keys", ()) if not _HEADS.match(key)},
        "has other shapes for": {str(key) for key in info.get("mismatched_keys", ())},
    }
    for fault, keys in faults.items():
        if keys:
            named = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            raise problem(checkpoint, f"the encoder of {str(folder)!r} {fault} weights ({len(keys)}): {named}")
    return (model.get_encoder() if decodes else model).eval(), preprocess


def _blocks(checkpoint: Checkpoint, model: Any) -> Any:
    blocks = getattr(getattr(model, "encoder", model), "layers", None)
    takes_sound = model.main_input_name in ("input_values", "input_features")
    if not takes_sound or not blocks or attention_of(blocks[0]) is None:
        kind = model.config.model_type
        raise problem(checkpoint, f"a {kind!r} model is not a speech encoder with blocks of attention")
    if getattr(model, "adapter", None) is not None:
        raise problem(checkpoint, "has an adapter that shortens its output (add_adapter), which is not supported")
    return blocks


def _grid_of(checkpoint: Checkpoint, model: Any, preprocess: Any) -> Grid:
    rate = getattr(preprocess, "sampling_rate", None)
    if rate != SAMPLE_RATE:
        raise problem(checkpoint, f"wants audio at {rate} Hz, not {SAMPLE_RATE}")
    kind = type(preprocess).__name__
    if kind == "Wav2Vec2FeatureExtractor":
        return Grid()
    if kind == "WhisperFeatureExtractor":  # its frame j is centred on sample 320 j, and 30 s are always taken
        return Grid(lead=120, first=1, always=preprocess.n_samples // HOP)
    if kind == "SeamlessM4TFeatureExtractor":  # frame j covers samples [320 j, 320 j + 560), in two windows
        return Grid(lead=80, tail=80, beyond=1)
    raise problem(checkpoint, f"has a preprocessor {kind}, whose frames are not known here")


def _input_of(model: Any, preprocess: Any) -> dict[str, Any]:
    features = getattr(model.config, "feat_extract_norm", None)
    if model.main_input_name == "input_features":
        features = "spectrogram"
    elif features is None and hasattr(model, "feature_extractor"):
        features = "layer"  # data2vec has no choice
    flags = {"normalised": "do_normalize", "mask": "return_attention_mask"}
    return {name: bool(getattr(preprocess, flag, False)) for name, flag in flags.items()} | {"features": features}


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
