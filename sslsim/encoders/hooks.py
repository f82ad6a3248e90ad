"""Hooks on an encoder's blocks: its hidden states, and rows of the attention of every head.

The hooks are our own: what ``output_hidden_states`` returns last for pre-norm models changed between transformers 5.15
and 5.16. Layer 0 is the input of the first block, layers 1..L are the blocks' outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sslsim.encoders.lineup import Checkpoint, problem

if TYPE_CHECKING:
    import torch


class Hooks:
    """What an encoder's blocks take and give while it runs, for each thread by itself: several may run one encoder."""

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


def rows_of(
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
