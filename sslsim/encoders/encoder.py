"""What an encoder is like and what it gives, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of one utterance of T frames.

    Attributes
    ----------
    hidden : ndarray, (L + 1, n_frames, n_neurons), float32
        Layer 0 is the transformer's input, 1..L its blocks' outputs; the wanted frames of each.
    final : ndarray, (n_frames, n_neurons), or None
        The model's last hidden state where a LayerNorm follows the last block; None where it is layer L itself.
    attention : ndarray, (L, n_heads, n_rows, T), float32
        The wanted query rows of every map.
    """

    hidden: NDArray[np.float32]
    final: NDArray[np.float32] | None
    attention: NDArray[np.float32]


@dataclass(frozen=True)
class Anatomy:
    """What was found out about an encoder.

    Attributes
    ----------
    n_layers : int
        Number of hidden states, L + 1.
    n_neurons, n_heads : int
        Width of a hidden state and heads of a block.
    normed : bool
        Whether the blocks' outputs are those of a LayerNorm (post-norm models, conformers) or the raw residual
        stream (pre-norm models: ``do_stable_layer_norm``, Whisper).
    input_normed : bool
        Whether layer 0 is the output of a LayerNorm.
    final_norm : bool
        Whether another LayerNorm follows the last block, so that the last hidden state is not layer L.
    heard : dict
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
    heard: dict[str, Any]
    parameters: int
