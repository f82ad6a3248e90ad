"""Trained and untrained models, and the states of their layers."""

import numpy as np
import torch
from corpus import normalised
from lineup import RECIPES
from paths import BUILD
from torch import nn
from zoo import build, encoder_of


def trained_model(name: str, step: int | None = None) -> nn.Module:
    """Return a trained model in evaluation mode, float32, as training left it, or as it was at a step that is kept."""
    recipe = RECIPES[name]
    model = build(recipe.family, recipe.size, recipe.ctc)
    file = BUILD / "runs" / name / ("state.pt" if step is None else f"step-{step}.pt")
    state = torch.load(file, weights_only=True)
    state = state["modules"] if step is None else state
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    return model.eval()


def trained_encoder(name: str) -> nn.Module:
    """Return the bare encoder of a trained model."""
    return encoder_of(trained_model(name)).eval()


def untrained_encoder(name: str, seed: int) -> nn.Module:
    """Return the twin of a model: its architecture with random weights."""
    torch.manual_seed(seed)
    return encoder_of(build(RECIPES[name].family, RECIPES[name].size)).eval()


@torch.no_grad()
def states(encoder: nn.Module, wave: np.ndarray) -> list[np.ndarray]:
    """Return the transformer's input and each block's output, (frames, neurons) each.

    Hooks read the blocks, so the last entry of a pre-norm model is its raw last block
    whatever version of transformers runs; see `hidden_states` in its release notes.
    """
    blocks, kept = encoder.encoder.layers, []
    hooks = [
        blocks[0].register_forward_pre_hook(
            lambda _m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    ]
    hooks += [
        block.register_forward_hook(lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out))
        for block in blocks
    ]
    try:
        encoder(normalised(torch.from_numpy(wave)[None]))
    finally:
        for hook in hooks:
            hook.remove()
    return [state[0].numpy() for state in kept]
