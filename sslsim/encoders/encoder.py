"""An encoder: one utterance becomes hidden states and attention rows, whatever the architecture, or a spectrogram.

The hooks on its blocks are our own: what ``output_hidden_states`` returns last for pre-norm models changed between
transformers 5.15 and 5.16. Layer 0 is the input of the first block, layers 1..L are the blocks' outputs. At the site
"ffn" layers 1..L are instead what enters the second linear map of each block's last feed-forward part.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import TqdmWarning

from sslsim.encoders.lineup import Checkpoint, problem
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, Clock

if TYPE_CHECKING:  # torch takes seconds to import: only loading an encoder does
    import torch

Numbers = NDArray[np.int64] | Sequence[int]
SITES = ("hidden", "ffn")  # of neurons: hidden states, units of feed-forward layers
_ON_GPU = threading.Lock()
BANDS = 80
_FFT = 512
_FLOOR = 1e-10
RECIPE = (
    f"natural logarithm of {BANDS} mel bands (Slaney's scale and areas, 0 to {SAMPLE_RATE // 2} Hz) of the power "
    f"spectrum of each frame of {WINDOW} samples under a periodic Hann window, {_FFT} points, floor {_FLOOR:g}"
)


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of the wanted frames and query rows of one utterance of T frames."""

    hidden: NDArray[np.float32]  # (L + 1, n_frames, n_neurons): the blocks' input and outputs; of units (L, ...)
    final: NDArray[np.float32] | None  # (n_frames, n_neurons): the last hidden state; None where it is layer L itself
    attention: NDArray[np.float32]  # (L, n_heads, n_rows, T): rows of every map


@dataclass(frozen=True)
class Anatomy:
    """What an encoder is like.

    `input` is how it takes its audio: ``normalised`` (each utterance to zero mean and unit variance), ``mask`` (given
    one of ones), ``features`` (norm of the convolutions: group or layer; or spectrogram).
    """

    n_layers: int  # hidden states, L + 1; of units L
    n_neurons: int  # their width
    n_heads: int  # of a block
    input: dict[str, Any]
    normed: bool = False  # blocks' outputs are those of a LayerNorm (post-norm, conformers), not raw residual streams
    input_normed: bool = False  # layer 0 is the output of a LayerNorm
    final_norm: bool = False  # another LayerNorm follows the last block, so that the last hidden state is not layer L
    parameters: int = 0  # weights of the encoder, heads of finetuning left out
    clock: Clock = Clock()


@dataclass(frozen=True)
class Grid:
    """How an encoder's own frames are brought onto those of its clock."""

    lead: int = 0  # samples of silence put before the sound
    tail: int = 0  # and after it
    first: int = 0  # the encoder's own frame that is frame 0
    always: int = 0  # frames that it gives however short the sound is; 0: as many as there are
    beyond: int = 0  # frames that it may give after those of the sound
    squeezed: bool = False  # what it gives at last has other frames than its blocks, and is not kept


class Hooks:
    """What an encoder's blocks take and give while it runs, for each thread by itself: several may run one encoder."""

    def __init__(self, checkpoint: Checkpoint, blocks: Any, heads: int, site: str = "hidden") -> None:
        self._checkpoint, self._heads, self._local, self.blocks = checkpoint, heads, threading.local(), len(blocks)
        linears = [second_linear(block) for block in blocks] if site == "ffn" else []
        if None in linears:
            raise problem(checkpoint, f"no feed-forward part was found in {type(blocks[0]).__name__}; take site hidden")
        self.wide = linears[0].in_features if linears else 0  # the modules, which know this object, are not kept in it
        for linear in linears:
            linear.register_forward_pre_hook(self._entered)
        blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        for block in blocks:
            block.register_forward_hook(self._after)
            attention = attention_of(block)
            attention.register_forward_hook(self._attended, with_kwargs=True)
            if hasattr(attention, "gru_rel_pos_linear"):  # torch warns of WavLM's mask of ones beside a bias
                attention.register_forward_pre_hook(
                    lambda _, args, kwargs: (args, kwargs | {"attention_mask": None}), with_kwargs=True
                )

    @contextmanager
    def listening(self, rows: torch.Tensor) -> Iterator[tuple[list[torch.Tensor], ...]]:
        """Yield lists that fill with hidden states, with units and with these rows of the attention maps."""
        self._local.states, self._local.units, self._local.maps, self._local.rows = [], [], [], rows
        try:
            yield self._local.states, self._local.units, self._local.maps
        finally:
            del self._local.states, self._local.units, self._local.maps, self._local.rows

    def _entered(self, _module: Any, args: tuple) -> None:
        if hasattr(self._local, "units"):
            self._local.units.append(args[0][0])

    def _before(self, _module: Any, args: tuple, kwargs: dict) -> None:
        if hasattr(self._local, "states"):
            self._local.states.append((args[0] if args else kwargs["hidden_states"])[0])

    def _after(self, _module: Any, _args: tuple, out: Any) -> None:
        if hasattr(self._local, "states"):
            self._local.states.append((out[0] if isinstance(out, tuple) else out)[0])  # WavLM's blocks return a tuple

    def _attended(self, module: Any, args: tuple, kwargs: dict, out: Any) -> None:
        """Keep rows of the maps of all heads, (n_heads, n_rows, n_keys), if there are maps."""
        if not hasattr(self._local, "maps") or not len(self._local.rows):
            return
        weights, rows = out[1], self._local.rows
        if hasattr(module, "gru_rel_pos_linear"):
            hidden = args[0] if args else kwargs["hidden_states"]
            self._local.maps.append(_gated_rows(self._checkpoint, module, hidden[0], out, rows))
        elif weights is not None:
            if weights.shape[1] != self._heads or (self._heads > 1 and weights.stride(1) == 0):
                advice = "extract it with queries 0 (hidden states only) or leave it out"
                raise problem(self._checkpoint, f"gives only the mean of its {self._heads} attention heads; {advice}")
            self._local.maps.append(weights[0].index_select(1, rows))


def attention_of(block: Any) -> Any:
    """Return the self-attention of a block, or None."""
    attention = getattr(block, "attention", None) or getattr(block, "self_attn", None)
    return getattr(attention, "self", attention)


def heads_of(block: Any) -> int:
    """Return how many heads the self-attention of a block has; 0 without any."""
    attention = attention_of(block)
    places = (attention, getattr(attention, "config", None))
    found = (getattr(place, name, 0) for place in places for name in ("num_heads", "num_attention_heads"))
    return int(next(filter(None, found), 0))


def second_linear(block: Any) -> Any:
    """Return the linear map that the units of a block enter, of its last feed-forward part if it has two, or None."""
    named = [module for name, module in block.named_modules() if name.endswith(("output_dense", "fc2"))]
    return named[-1] if named else None


def _gated_rows(checkpoint: Checkpoint, module: Any, x: torch.Tensor, out: Any, rows: torch.Tensor) -> torch.Tensor:
    """Rows of each head's map of a WavLM block, of which transformers gives only the mean over heads.

    softmax(q k' / sqrt(d) + gate * bias), gate from the layer's input, bias from relative positions, shared by all
    layers (Chen et al. 2022, arXiv 2110.13900, section 3).
    """
    heads, width = module.num_heads, module.head_dim

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
        off = float((maps.mean(0) - out[1][0, 0].index_select(0, rows)).abs().max())
        if off > (1e-4 if maps.element_size() == 4 else 0.05):
            raise problem(checkpoint, f"heads recomputed differ by {off:.1g} from the mean that transformers gives")
    return maps


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder in evaluation mode; `dtype` is what it computes in, what it gives is float32."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    device: str
    dtype: str
    model: Any
    preprocess: Any
    grid: Grid
    hooks: Hooks
    site: str = "hidden"

    def encode(self, waveform: NDArray[np.float32], rows: Numbers, frames: Numbers | None = None) -> Encoded:
        """Run one utterance: a mono waveform of 16 kHz, (n,) float32.

        Kept are the attention rows of the query frames `rows`, and the hidden states of `frames`, by default all. One
        utterance at a time, so that there is no padding: padding changes what models with group norm, data2vec and
        conformers make of every frame, even with a mask, by a tenth and more.
        """
        import torch

        anatomy, length = self.anatomy, self.anatomy.clock.n_frames(len(waveform))
        if not length:  # of a sound too short for this encoder
            none = np.zeros((anatomy.n_layers, 0, anatomy.n_neurons), np.float32)
            empty = np.zeros((self.hooks.blocks, anatomy.n_heads, 0, 0), np.float32)
            return Encoded(none, none[0] if anatomy.final_norm else None, empty)
        wanted = np.arange(length) if frames is None else np.asarray(frames, dtype=np.int64)
        keep = torch.as_tensor(wanted, device=self.device)
        states, maps, last = self.run(waveform, np.asarray(rows, dtype=np.int64))
        ends = self.anatomy.final_norm or self.site == "ffn"  # with another array than the last hidden state
        if not (ends or torch.equal(last.nan_to_num(), states[-1].nan_to_num())):
            raise problem(self.checkpoint, "its last hidden state is not its last block's output, as it was at first")
        final = last.index_select(0, keep).float().cpu().numpy() if self.anatomy.final_norm else None
        hidden = torch.stack([state.index_select(0, keep) for state in states]).float().cpu().numpy()
        empty = np.zeros((0, self.anatomy.n_heads, 0, length), "f4")
        attention = torch.stack(maps).float().cpu().numpy() if maps else empty
        return Encoded(hidden, final, attention)

    def run(
        self, waveform: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Return layers (T, n_neurons), rows of the maps (n_heads, n_rows, T) and the last hidden state."""
        import torch

        grid, clock, blocks = self.grid, self.anatomy.clock, self.hooks.blocks
        length = clock.n_frames(len(waveform))
        if grid.always and length > grid.always - grid.first:
            most = f"{grid.always - grid.first:,} frames, not {length:,}"
            raise problem(self.checkpoint, f"takes at most {most}; cut the audio shorter with piece_seconds")
        sound = clock.resampled(np.pad(waveform, (grid.lead, grid.tail)) if grid.lead or grid.tail else waveform)
        # the checkpoint's own preprocessor: zero mean and unit variance or not, mask of ones or none
        inputs = self.preprocess(sound, sampling_rate=clock.rate, return_tensors="pt")
        inputs = inputs.to(self.device, getattr(torch, self.dtype))
        part = slice(grid.first, grid.first + length)
        wanted = torch.as_tensor(rows + grid.first, device=self.device)
        with torch.inference_mode(), _exact_products(self.device), self.hooks.listening(wanted) as heard:
            states, units, maps = heard
            last = self.model(**inputs).last_hidden_state[0]
            last = states[-1] if grid.squeezed else last
            shapes = {str(tuple(state.shape)) for state in [*states, last]}  # before any is cut
            if len(shapes) > 1:
                told = ", ".join(sorted(shapes))
                raise problem(self.checkpoint, f"gives hidden states of several shapes, {told}, which is not supported")
            if not 0 <= len(last) - (grid.always or part.stop) <= grid.beyond:
                fault = f"gave {len(last)} frames where {grid.always or length} were expected"
                every = f"one every {clock.milliseconds:g} ms; this architecture is not supported"
                raise problem(self.checkpoint, f"{fault}, {every}")
            if len(states) != blocks + 1:
                raise problem(self.checkpoint, f"gave {len(states)} hidden states for {blocks} blocks")
            if len(rows) and len(maps) != blocks:
                raise problem(self.checkpoint, f"gave {len(maps)} attention maps for {blocks} blocks")
            # of attention to frames of silence around the sound, and of rounded weights, rows do not sum to 1
            if len(last) > length or self.dtype != "float32":
                maps = [rows / rows.sum(-1, keepdim=True) for rows in (m[..., part].float() for m in maps)]
            if self.site == "ffn" and [unit.shape for unit in units] != [(len(last), self.anatomy.n_neurons)] * blocks:
                raise problem(self.checkpoint, "gave other units of feed-forward layers than one row a frame and block")
            return [x[part] for x in (units if self.site == "ffn" else states)], maps, last[part]


@contextmanager
def _exact_products(device: str) -> Iterator[None]:
    """Switch off TF32 convolutions, wrong by 1e-3, on a GPU: for all threads, so one at a time runs encoders there."""
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


@dataclass(frozen=True, eq=False)
class LogMel:
    """A log-mel spectrogram in the form of an encoder, on the same frames: one layer, 80 neurons, no heads."""

    checkpoint: Checkpoint

    anatomy = Anatomy(1, BANDS, 0, {"normalised": False, "mask": False, "features": "spectrogram"})

    def encode(self, waveform: NDArray[np.float32], rows: Numbers = (), frames: Numbers | None = None) -> Encoded:
        """Return the wanted frames of the spectrogram as ``hidden``, (1, n_frames, 80); there is no attention."""
        values = log_mel(waveform)
        kept = values if frames is None else values[np.asarray(frames, dtype=np.int64)]
        return Encoded(kept[None], None, np.zeros((0, 0, 0, len(values)), "f4"))


def ignore_widgets() -> None:
    """Silence tqdm for good: importing transformers makes it warn in JupyterLab of widgets that nothing here shows."""
    warnings.filterwarnings("ignore", category=TqdmWarning)


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    ignore_widgets()
    from transformers.audio_utils import mel_filter_bank

    top = SAMPLE_RATE / 2
    return mel_filter_bank(_FFT // 2 + 1, BANDS, 0.0, top, SAMPLE_RATE, norm="slaney", mel_scale="slaney")


def log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel spectrogram of a waveform at 16 kHz, (T, 80) float32, as ``RECIPE`` says."""
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * window, _FFT)) ** 2
    return np.log(np.maximum(power @ _filters(), _FLOOR)).astype("f4")
