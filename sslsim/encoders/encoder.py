"""An encoder: one utterance becomes hidden states and attention rows, whatever the architecture."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sslsim.encoders.hooks import Hooks
from sslsim.encoders.lineup import Checkpoint, problem
from sslsim.speech.recording import SAMPLE_RATE, n_frames

if TYPE_CHECKING:  # torch takes seconds to import: only loading an encoder does
    import torch

_ON_GPU = threading.Lock()


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of one utterance of T frames, float32.

    `hidden` (L + 1, n_frames, n_neurons) are the wanted frames of the transformer's input, layer 0, and of its blocks'
    outputs; `final` (n_frames, n_neurons) those of the last hidden state where a LayerNorm follows the last block, None
    where it is layer L itself; `attention` (L, n_heads, n_rows, T) the wanted query rows of every map.
    """

    hidden: NDArray[np.float32]
    final: NDArray[np.float32] | None
    attention: NDArray[np.float32]


@dataclass(frozen=True)
class Anatomy:
    """What an encoder is like.

    Attributes
    ----------
    n_layers, n_neurons, n_heads : int
        Number of hidden states, L + 1, their width, and heads of a block.
    normed : bool
        Whether the blocks' outputs are those of a LayerNorm (post-norm models, conformers) or the raw residual
        stream (pre-norm models: ``do_stable_layer_norm``, Whisper).
    input_normed : bool
        Whether layer 0 is the output of a LayerNorm.
    final_norm : bool
        Whether another LayerNorm follows the last block, so that the last hidden state is not layer L.
    input : dict
        How it takes its audio: ``normalised`` (each utterance to zero mean and unit variance), ``mask`` (given
        one of ones), ``features`` (norm of the convolutions: group or layer; or spectrogram).
    parameters : int
        Number of weights of the encoder, heads of finetuning left out.
    """

    n_layers: int
    n_neurons: int
    n_heads: int
    normed: bool
    input_normed: bool
    final_norm: bool
    input: dict[str, Any]
    parameters: int


@dataclass(frozen=True)
class Grid:
    """How an encoder's own frames are brought onto frame i = samples [320 i, 320 i + 400), centre 320 i + 200."""

    lead: int = 0  # samples of silence put before the sound
    tail: int = 0  # and after it
    first: int = 0  # the encoder's own frame that is frame 0
    most: int | None = None  # frames that it can take
    beyond: int = 0  # frames that it may give after those of the sound


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder in evaluation mode; `dtype` is what it computes in, what it gives is float32."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    device: str
    dtype: str
    _model: Any
    _preprocess: Any
    _grid: Grid
    _hooks: Hooks

    def encode(
        self,
        waveform: NDArray[np.float32],
        rows: NDArray[np.int64] | Sequence[int],
        frames: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Encoded:
        """Run one utterance: a mono waveform of 16 kHz, (n,) float32.

        One at a time, so that there is no padding: padding changes what models with group norm, data2vec and
        conformers make of every frame, even with a mask, by a tenth and more.

        Parameters
        ----------
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
        inputs = inputs.to(self.device) if self.dtype == "float32" else inputs.to(self.device, torch_dtype(self.dtype))
        part = slice(grid.first, grid.first + length)
        wanted = torch.as_tensor(rows + grid.first, device=self.device)
        with torch.inference_mode(), _exact_products(self.device), self._hooks.listening(wanted) as (states, maps):
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


def torch_dtype(dtype: str) -> Any:
    """Return torch's own name for a dtype."""
    import torch

    return getattr(torch, dtype)


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
