"""Checkpoints in: an encoder is loaded, one utterance turned into hidden states and attention rows.

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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import TqdmWarning

from sslsim.audio import SAMPLE_RATE, n_frames
from sslsim.errors import SslsimError
from sslsim.lineup import Checkpoint, checkpoint_fingerprint, first_line, locate, problem, read_lineup, select

if TYPE_CHECKING:  # torch and transformers take seconds to import: only loading an encoder does
    import torch

__all__ = [
    "Checkpoint",
    "Encoded",
    "Encoder",
    "checkpoint_fingerprint",
    "load_encoder",
    "read_lineup",
    "select",
]

_ON_GPU = threading.Lock()
_LOADING = threading.Lock()  # random weights and transformers' verbosity are global to the process
# weights that a checkpoint may have beyond its encoder: heads, quantizer and their projections
_HEADS = re.compile(
    r"(lm_head|classifier|projector|layer_weights|quantizer|project_q|project_hid|final_proj|label_embs_concat"
    r"|tdnn|objective|masked_spec_embed)\b"
)


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of one utterance of T frames.

    Attributes
    ----------
    hidden : ndarray, (L + 1, T, n_neurons), float32
        Layer 0 is the transformer's input, 1..L its blocks' outputs.
    final : ndarray, (T, n_neurons), or None
        The final LayerNorm's output for pre-norm models; None where it is layer L itself.
    attention : ndarray, (L, n_heads, n_rows, T), float32
        The wanted query rows of every map.
    """

    hidden: NDArray[np.float32]
    final: NDArray[np.float32] | None
    attention: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder in evaluation mode, float32.

    Attributes
    ----------
    checkpoint : Checkpoint
        What was loaded.
    n_layers : int
        Number of hidden states, L + 1.
    n_neurons, n_heads : int
        Width of a hidden state and heads of a block.
    pre_norm : bool
        Whether blocks normalise their input (``do_stable_layer_norm`` in its configuration).
    parameters : int
        Number of weights of the encoder, heads of finetuning left out.
    """

    checkpoint: Checkpoint
    n_layers: int
    n_neurons: int
    n_heads: int
    pre_norm: bool
    parameters: int
    device: str
    _model: Any
    _preprocess: Any
    _heard: _Heard

    def encode(self, waveform: NDArray[np.float32], rows: NDArray[np.int64] | Sequence[int]) -> Encoded:
        """Run one utterance.

        One at a time, so that there is no padding: padding changes what group-norm models make of
        every frame, even with a mask.

        Parameters
        ----------
        waveform : ndarray, (n,), float32
            Mono, 16 kHz.
        rows : sequence of int
            Query frames whose attention rows to keep; none: no attention.
        """
        import torch

        # the checkpoint's own preprocessor: zero mean and unit variance or not, mask of ones or none
        inputs = self._preprocess(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(self.device)
        keep = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=self.device)
        with torch.inference_mode(), _exact_products(self.device), self._heard.listening(keep) as (states, maps):
            last = self._model(**inputs).last_hidden_state[0]
            self._check(states, maps, last, n_frames(len(waveform)), len(keep))
            hidden = torch.stack(states).cpu().numpy()
            attention = torch.stack(maps).cpu().numpy() if maps else np.zeros((0, self.n_heads, 0, len(last)), "f4")
            return Encoded(hidden, last.cpu().numpy() if self.pre_norm else None, attention)

    def _check(self, states: list, maps: list, last: torch.Tensor, frames: int, n_rows: int) -> None:
        import torch

        if len(states) != self.n_layers or len(last) != frames:
            raise problem(
                self.checkpoint,
                f"gave {len(states)} hidden states of {len(last)} frames, not {self.n_layers} of {frames} "
                "(25 ms windows every 20 ms); this architecture is not supported",
            )
        if n_rows and len(maps) != self.n_layers - 1:
            raise problem(self.checkpoint, f"gave {len(maps)} attention maps for {self.n_layers - 1} blocks")
        if not self.pre_norm and not torch.equal(last.nan_to_num(), states[-1].nan_to_num()):
            raise problem(self.checkpoint, "its last hidden state is not its last block's output, though post-norm")


class _Heard:
    """What an encoder's blocks say while it runs, in each thread for itself: several may run one encoder at a time."""

    def __init__(self, blocks: Any, check: Callable[[torch.Tensor], None]) -> None:
        self._local = threading.local()
        self._check = check
        blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        for block in blocks:
            block.register_forward_hook(self._after)
            block.attention.register_forward_hook(self._attended)

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

    def _attended(self, _module: Any, _args: tuple, out: tuple) -> None:
        if hasattr(self._local, "maps") and len(self._local.rows) and out[1] is not None:
            self._check(out[1])
            self._local.maps.append(out[1][0].index_select(1, self._local.rows))


def _check_heads(checkpoint: Checkpoint, model: Any, weights: torch.Tensor) -> None:
    # WavLM gives the mean over heads, broadcast: one head's map is the next one's memory
    heads = model.config.num_attention_heads
    if weights.shape[1] != heads or (heads > 1 and weights.stride(1) == 0):
        raise problem(
            checkpoint,
            f"a {model.config.model_type!r} model gives only the mean of its attention heads; "
            "extract it with queries 0 (hidden states only) or leave it out",
        )


def load_encoder(checkpoint: Checkpoint, device: str = "cpu") -> Encoder:
    """Load the encoder of a checkpoint, without the head that finetuning may have added.

    The class comes from ``config.json``, never from a name. Attention is eager, the only kind that has
    maps to give; weights are float32 whatever the file holds.

    Raises
    ------
    SslsimError
        Not there, not a speech encoder on waveforms, or a file that lacks weights of the encoder or
        has weights that it has no place for.

    Notes
    -----
    With an ``untrained_seed`` the weights are those that transformers draws for the architecture; the
    caller's own random state stays as it was.
    """
    folder = locate(checkpoint)
    with _LOADING:
        model, preprocess = _load(checkpoint, folder)
    _check_kind(checkpoint, model, preprocess)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise SslsimError(f"device {device!r} cannot be used: {first_line(error)}") from error
    return Encoder(
        checkpoint=checkpoint,
        n_layers=len(model.encoder.layers) + 1,
        n_neurons=model.config.hidden_size,
        n_heads=model.config.num_attention_heads,
        pre_norm=bool(getattr(model.config, "do_stable_layer_norm", False)),
        parameters=sum(weight.numel() for weight in model.parameters()),
        device=device,
        _model=model,
        _preprocess=preprocess,
        _heard=_Heard(model.encoder.layers, partial(_check_heads, checkpoint, model)),
    )


def _load(checkpoint: Checkpoint, folder: Path) -> tuple[Any, Any]:
    # else transformers asks the hub, in a thread of its own, to convert pickled weights
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
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
                    return AutoModel.from_config(config, **options).eval(), preprocess
            model, info = AutoModel.from_pretrained(folder, weights_only=True, output_loading_info=True, **options)
        except Exception as error:  # config, tensors and pickles each fail in their own way
            raise problem(checkpoint, f"{str(folder)!r} does not load: {first_line(error)}") from error
    missing = sorted(set(info["missing_keys"]) - {"masked_spec_embed"})
    unexpected = sorted(key for key in info["unexpected_keys"] if not _HEADS.match(key))
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    faults = {"lacks": missing, "has no place for": unexpected, "has other shapes for": mismatched}
    for fault, keys in faults.items():
        if keys:
            named = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            raise problem(checkpoint, f"the encoder of {str(folder)!r} {fault} weights ({len(keys)}): {named}")
    return model.eval(), preprocess


def _check_kind(checkpoint: Checkpoint, model: Any, preprocess: Any) -> None:
    kind = model.config.model_type
    blocks = getattr(getattr(model, "encoder", None), "layers", None)
    if model.main_input_name != "input_values" or not blocks or not hasattr(blocks[0], "attention"):
        raise problem(checkpoint, f"a {kind!r} model is not a speech encoder on waveforms with blocks of attention")
    if getattr(model, "adapter", None) is not None:
        raise problem(checkpoint, "has an adapter that shortens its output (add_adapter), which is not supported")
    if preprocess.sampling_rate != SAMPLE_RATE:
        raise problem(checkpoint, f"wants audio at {preprocess.sampling_rate} Hz, not {SAMPLE_RATE}")


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
