"""Checkpoints in: an encoder is loaded, one utterance turned into hidden states and attention rows.

What transformers' many encoders have in common is found by looking: the blocks, the attention of each, whether a
LayerNorm makes their output, whether another follows the last one. A short sound is run through every encoder when it
is loaded, and what does not behave is refused.

Hidden states are taken with hooks of our own: what ``output_hidden_states`` returns last for pre-norm
models changed between transformers 5.15 and 5.16. Layer 0 is the input of the first block, layers 1..L are
the blocks' outputs; ``final`` is ``last_hidden_state`` where a last LayerNorm makes it differ from layer L.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import TqdmWarning

from sslsim.encoders.encoder import Anatomy, Encoded
from sslsim.encoders.lineup import (
    LOG_MEL,
    Checkpoint,
    checkpoint_fingerprint,
    first_line,
    locate,
    problem,
    read_lineup,
    select,
)
from sslsim.encoders.log_mel import BANDS, log_mel
from sslsim.errors import SslsimError
from sslsim.speech.recording import SAMPLE_RATE, n_frames

if TYPE_CHECKING:  # torch and transformers take seconds to import: only loading an encoder does
    import torch

__all__ = [
    "Anatomy",
    "Checkpoint",
    "Encoded",
    "Encoder",
    "LogMel",
    "checkpoint_fingerprint",
    "load_encoder",
    "read_lineup",
    "select",
]

DTYPES = ("float32", "bfloat16", "float16")
_ON_GPU = threading.Lock()
_LOADING = threading.Lock()  # random weights and transformers' verbosity are global to the process
# weights that a checkpoint may have beyond its encoder: heads, quantizer and their projections
_HEADS = re.compile(
    r"((\w+\.)?(lm_head|classifier|projector|layer_weights|quantizer|project_q|project_hid|final_proj"
    r"|label_embs_concat|label_embeddings_concat|speaker_proj|ctc_proj|layer_norm_for_extract|tdnn|objective|proj_out"
    r"|masked_spec_embed))\b|feature_extractor\.(weight|bias)$"
)
_DECODER = re.compile(r"(model\.)?decoder\.")
_TRIAL = 9_999  # samples of the sound that an encoder is tried on: 30 frames, and as much as can be left over


@dataclass(frozen=True)
class Grid:
    """How an encoder's own frames are brought onto frame i = samples [320 i, 320 i + 400), centre 320 i + 200.

    Attributes
    ----------
    lead, tail : int
        Samples of silence put before and after the sound.
    first : int
        The encoder's own frame that is frame 0.
    most : int or None
        Most frames that it can take.
    beyond : int
        Most frames that it gives after those of the sound.
    """

    lead: int = 0
    tail: int = 0
    first: int = 0
    most: int | None = None
    beyond: int = 0


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder in evaluation mode.

    Attributes
    ----------
    checkpoint : Checkpoint
        What was loaded.
    anatomy : Anatomy
        What it is like.
    device, dtype : str
        Where and in what it computes; what it gives is float32.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy
    device: str
    dtype: str
    _model: Any
    _preprocess: Any
    _grid: Grid
    _heard: _Heard

    def encode(
        self,
        waveform: NDArray[np.float32],
        rows: NDArray[np.int64] | Sequence[int],
        frames: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Encoded:
        """Run one utterance.

        One at a time, so that there is no padding: padding changes what models with group norm, data2vec and
        conformers make of every frame, even with a mask, by a tenth and more. Batches of equal lengths would be
        exact to 1e-6, but not to the bit, and a CPU gains nothing by them.

        Parameters
        ----------
        waveform : ndarray, (n,), float32
            Mono, 16 kHz.
        rows : sequence of int
            Query frames whose attention rows to keep; none: no attention.
        frames : sequence of int, optional
            Frames whose hidden states to keep; all unless given.
        """
        import torch

        length = n_frames(len(waveform))
        keep = torch.arange(length) if frames is None else torch.as_tensor(np.asarray(frames, dtype=np.int64))
        states, maps, last = self._run(waveform, np.asarray(rows, dtype=np.int64))
        self._check(states, maps, last, len(rows))
        keep = keep.to(self.device)
        final = last.index_select(0, keep).float().cpu().numpy() if self.anatomy.final_norm else None
        hidden = torch.stack([state.index_select(0, keep) for state in states]).float().cpu().numpy()
        empty = np.zeros((0, self.anatomy.n_heads, 0, length), "f4")
        attention = torch.stack(maps).float().cpu().numpy() if maps else empty
        return Encoded(hidden, final, attention)

    def _run(
        self, waveform: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Hidden states (T, n_neurons), wanted rows of the maps (n_heads, n_rows, T) and the last hidden state."""
        import torch

        grid, length = self._grid, n_frames(len(waveform))
        if grid.most is not None and length > grid.most:
            raise problem(
                self.checkpoint,
                f"takes at most {grid.most:,} frames, not {length:,}; cut the audio shorter with piece_seconds",
            )
        sound = np.pad(waveform, (grid.lead, grid.tail)) if grid.lead or grid.tail else waveform
        # the checkpoint's own preprocessor: zero mean and unit variance or not, mask of ones or none
        inputs = self._preprocess(sound, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = inputs.to(self.device) if self.dtype == "float32" else inputs.to(self.device, _torch_dtype(self.dtype))
        part = slice(grid.first, grid.first + length)
        wanted = torch.as_tensor(rows + grid.first, device=self.device)
        with torch.inference_mode(), _exact_products(self.device), self._heard.listening(wanted) as (states, maps):
            last = self._model(**inputs).last_hidden_state[0]
            if not 0 <= len(last) - part.stop <= grid.beyond:
                raise problem(
                    self.checkpoint,
                    f"gave {len(last)} frames where {length} were expected "
                    "(25 ms windows every 20 ms); this architecture is not supported",
                )
            if len(last) > length:  # frames of silence around the sound: attention is that among its frames
                maps = [rows / rows.sum(-1, keepdim=True) for rows in (m[..., part] for m in maps)]
            return [state[part] for state in states], maps, last[part]

    def _check(self, states: list, maps: list, last: torch.Tensor, n_rows: int) -> None:
        import torch

        blocks = self.anatomy.n_layers - 1
        if len(states) != blocks + 1:
            raise problem(self.checkpoint, f"gave {len(states)} hidden states for {blocks} blocks")
        if n_rows and len(maps) != blocks:
            raise problem(self.checkpoint, f"gave {len(maps)} attention maps for {blocks} blocks")
        if not self.anatomy.final_norm and not torch.equal(last.nan_to_num(), states[-1].nan_to_num()):
            raise problem(self.checkpoint, "its last hidden state is not its last block's output, as it was at first")


def _torch_dtype(dtype: str) -> Any:
    import torch

    return getattr(torch, dtype)


class _Heard:
    """What an encoder's blocks say while it runs, in each thread for itself: several may run one encoder at a time."""

    def __init__(self, blocks: Any, rows_of: Callable[[Any, Any, Any, torch.Tensor], torch.Tensor | None]) -> None:
        self._local = threading.local()
        self._rows_of = rows_of
        blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        for block in blocks:
            block.register_forward_hook(self._after)
            attention = attention_of(block)
            attention.register_forward_hook(self._attended, with_kwargs=True)
            if hasattr(attention, "gru_rel_pos_linear"):
                attention.register_forward_pre_hook(_unmasked, with_kwargs=True)

    @contextmanager
    def listening(self, rows: torch.Tensor) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Yield two lists that fill with hidden states and with these rows of the attention maps."""
        states: list[torch.Tensor] = []
        maps: list[torch.Tensor] = []
        self._local.states, self._local.maps, self._local.rows = states, maps, rows
        try:
            yield states, maps
        finally:
            del self._local.states, self._local.maps, self._local.rows

    def _before(self, _module: Any, args: tuple, kwargs: dict) -> None:
        if hasattr(self._local, "states"):
            self._local.states.append((args[0] if args else kwargs["hidden_states"])[0])

    def _after(self, _module: Any, _args: tuple, out: Any) -> None:
        if hasattr(self._local, "states"):
            self._local.states.append((out[0] if isinstance(out, tuple) else out)[0])  # WavLM's blocks return a tuple

    def _attended(self, module: Any, args: tuple, kwargs: dict, out: Any) -> None:
        if hasattr(self._local, "maps") and len(self._local.rows):
            rows = self._rows_of(module, args[0] if args else kwargs["hidden_states"], out, self._local.rows)
            if rows is not None:
                self._local.maps.append(rows)


def _unmasked(_module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Take its mask of ones from WavLM's attention: torch warns of a Boolean mask beside a bias of positions."""
    return args, kwargs | {"attention_mask": None}


def attention_of(block: Any) -> Any:
    """Return the self-attention of a block, or None."""
    return getattr(block, "attention", None) or getattr(block, "self_attn", None)


def _rows_of(
    checkpoint: Checkpoint, heads: int, module: Any, hidden: torch.Tensor, out: Any, rows: torch.Tensor
) -> torch.Tensor | None:
    """Rows of the maps of all heads, (n_heads, n_rows, n_keys), from what an attention module took and gave."""
    weights = out[1]
    if hasattr(module, "gru_rel_pos_linear"):
        return _gated_rows(checkpoint, module, hidden, out, rows)
    if weights is None:
        return None
    if weights.shape[1] != heads or (heads > 1 and weights.stride(1) == 0):
        raise problem(
            checkpoint,
            f"gives only the mean of its {heads} attention heads; "
            "extract it with queries 0 (hidden states only) or leave it out",
        )
    return weights[0].index_select(1, rows)


def _gated_rows(
    checkpoint: Checkpoint, module: Any, hidden: torch.Tensor, out: Any, rows: torch.Tensor
) -> torch.Tensor:
    """Rows of each head's map of a WavLM block, of which transformers gives only the mean over heads.

    softmax(q k' / sqrt(d) + gate * bias), gate from the layer's input, bias from relative positions, shared by all
    layers (Chen et al. 2022, arXiv 2110.13900, section 3).
    """
    heads, width = module.num_heads, module.head_dim
    x = hidden[0]

    def by_head(y: torch.Tensor) -> torch.Tensor:
        return y.view(len(y), heads, width).transpose(0, 1)

    some = x.index_select(0, rows)
    gate = module.gru_rel_pos_linear(by_head(some)).view(heads, len(rows), 2, 4).sum(-1).sigmoid()
    a, b = gate[..., :1], gate[..., 1:]
    scale = a * (b * module.gru_rel_pos_const[0] - 1.0) + 2.0
    bias = out[2].view(heads, len(x), len(x)).index_select(1, rows)
    scores = by_head(module.q_proj(some)) * width**-0.5 @ by_head(module.k_proj(x)).transpose(1, 2)
    maps = (scores + scale * bias).softmax(-1)
    if out[1] is not None:
        mean = out[1][0, 0].index_select(0, rows)
        off = float((maps.mean(0) - mean).abs().max())
        if off > (1e-4 if maps.element_size() == 4 else 0.05):
            raise problem(checkpoint, f"heads recomputed differ by {off:.1g} from the mean that transformers gives")
    return maps


@dataclass(frozen=True, eq=False)
class LogMel:
    """A log-mel spectrogram in the form of an encoder: one layer, 80 neurons, no heads.

    Its frames are those of the encoders, samples [320 i, 320 i + 400).
    """

    checkpoint: Checkpoint

    @property
    def anatomy(self) -> Anatomy:
        """As of an encoder."""
        heard = {"normalised": False, "mask": False, "features": "spectrogram"}
        return Anatomy(1, BANDS, 0, normed=False, input_normed=False, final_norm=False, heard=heard, parameters=0)

    def encode(
        self,
        waveform: NDArray[np.float32],
        rows: NDArray[np.int64] | Sequence[int] = (),
        frames: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Encoded:
        """Return the wanted frames of the spectrogram as ``hidden``, (1, n_frames, 80); `rows` are of no use."""
        values = log_mel(waveform)
        kept = values if frames is None else values[np.asarray(frames, dtype=np.int64)]
        return Encoded(kept[None], None, np.zeros((0, 0, 0, len(values)), "f4"))


def load_encoder(checkpoint: Checkpoint, device: str = "cpu", dtype: str = "float32") -> Encoder | LogMel:
    """Load the encoder of a checkpoint, without the head that finetuning may have added, and try it.

    The class comes from ``config.json``, never from a name. Attention is eager, the only kind that has
    maps to give. Weights are loaded in float32 whatever the file holds, and then brought to `dtype`.

    Raises
    ------
    SslsimError
        Not there, not a speech encoder of 20 ms frames, or a file that lacks weights of the encoder or
        has weights that it has no place for.

    Notes
    -----
    With an ``untrained_seed`` the weights are those that transformers draws for the architecture; the
    caller's own random state stays as it was.
    """
    if dtype not in DTYPES:
        raise SslsimError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    if checkpoint.source == LOG_MEL:
        return LogMel(checkpoint)
    folder = locate(checkpoint)
    with _LOADING:
        model, preprocess = _load(checkpoint, folder)
    blocks = _blocks(checkpoint, model)
    grid = _grid_of(checkpoint, model, preprocess)
    try:
        model = model.to(device, _torch_dtype(dtype))
    except (RuntimeError, AssertionError) as error:
        raise SslsimError(f"device {device!r} cannot be used: {first_line(error)}") from error
    heads = int(model.config.num_attention_heads)
    anatomy = Anatomy(
        n_layers=len(blocks) + 1,
        n_neurons=int(model.config.hidden_size),
        n_heads=heads,
        normed=False,
        input_normed=False,
        final_norm=True,
        heard=_hearing(model, preprocess),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )
    heard = _Heard(blocks, partial(_rows_of, checkpoint, heads))
    encoder = Encoder(checkpoint, anatomy, device, dtype, model, preprocess, grid, heard)
    return _tried(encoder, blocks)


def _tried(encoder: Encoder, blocks: Any) -> Encoder:
    """Run a short sound, check what comes, and note which states are outputs of a LayerNorm."""
    import torch

    normed: list[torch.Tensor] = []

    def note(_module: Any, _args: Any, out: torch.Tensor) -> None:
        normed.append(out[0])

    norms = [module for module in encoder._model.modules() if type(module) is torch.nn.LayerNorm]
    hooks = [module.register_forward_hook(note) for module in norms]
    sound = np.random.default_rng(0).standard_normal(_TRIAL, dtype="f4") / np.float32(10)
    part = slice(encoder._grid.first, encoder._grid.first + n_frames(_TRIAL))
    try:
        states, _, last = encoder._run(sound, np.zeros(0, np.int64))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, SslsimError):
            raise
        raise problem(encoder.checkpoint, f"does not run in {encoder.dtype}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    encoder._check(states, [], last, 0)
    if any(state.shape != last.shape for state in states):
        shapes = ", ".join(sorted({str(tuple(state.shape)) for state in [*states, last]}))
        raise problem(encoder.checkpoint, f"gives hidden states of several shapes, {shapes}, which is not supported")

    def is_normed(state: torch.Tensor) -> bool:
        outputs = (out[part] for out in normed if out.shape[1:] == state.shape[1:])
        return any(torch.equal(out, state) for out in outputs)

    found = replace(
        encoder.anatomy,
        n_neurons=int(last.shape[1]),
        normed=all(is_normed(state) for state in states[1:]),
        input_normed=is_normed(states[0]),
        final_norm=not torch.equal(last, states[-1]),
    )
    return replace(encoder, anatomy=found)


def _load(checkpoint: Checkpoint, folder: Path) -> tuple[Any, Any]:
    # else transformers asks the hub, in a thread of its own, to convert pickled weights
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    # else oneDNN keeps what it compiles for every length of utterance: 100 MB more after an hour of them
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # in JupyterLab, for want of widgets that nothing here shows
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
    with _quiet():
        try:
            preprocess = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
            if checkpoint.untrained_seed is not None:
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(checkpoint.untrained_seed)
                    return _encoder_part(AutoModel.from_config(config, **options)), preprocess
            model, info = AutoModel.from_pretrained(folder, weights_only=True, output_loading_info=True, **options)
        except Exception as error:  # config, tensors and pickles each fail in their own way
            raise problem(checkpoint, f"{str(folder)!r} does not load: {first_line(error)}") from error
    absent = {key for key in info["missing_keys"] if not (model.config.is_encoder_decoder and _DECODER.match(key))}
    missing = sorted(absent - {"masked_spec_embed"})
    unexpected = sorted(key for key in info["unexpected_keys"] if not _HEADS.match(key))
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    faults = {"lacks": missing, "has no place for": unexpected, "has other shapes for": mismatched}
    for fault, keys in faults.items():
        if keys:
            named = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise problem(checkpoint, f"the encoder of {str(folder)!r} {fault} weights ({len(keys)}): {named}")
    return _encoder_part(model), preprocess


def _encoder_part(model: Any) -> Any:
    return (model.get_encoder() if model.config.is_encoder_decoder else model).eval()


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
    if kind == "WhisperFeatureExtractor":  # its frame j is centred on sample 320 j, and 30 s are always heard
        most = model.config.max_source_positions - 1
        return Grid(lead=120, first=1, most=most, beyond=most)
    if kind == "SeamlessM4TFeatureExtractor":  # frame j covers samples [320 j, 320 j + 560), in two windows
        return Grid(lead=80, tail=80, beyond=1)
    raise problem(checkpoint, f"has a preprocessor {kind}, whose frames are not known here")


def _hearing(model: Any, preprocess: Any) -> dict[str, Any]:
    features = getattr(model.config, "feat_extract_norm", None)
    if model.main_input_name == "input_features":
        features = "spectrogram"
    elif features is None and hasattr(model, "feature_extractor"):
        features = "layer"  # data2vec has no choice
    return {
        "normalised": bool(getattr(preprocess, "do_normalize", False)),
        "mask": bool(getattr(preprocess, "return_attention_mask", False)),
        "features": features,
    }


@contextmanager
def _exact_products(device: str) -> Iterator[None]:
    """Switch off TF32 convolutions, which a GPU would otherwise use, at 1e-3 relative.

    The switch is global, so one thread at a time runs encoders on GPUs.
    """
    if device == "cpu":
        yield
        return
    import torch

    with _ON_GPU:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' log lines, bars and warnings off the terminal while loading; errors still raise."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
