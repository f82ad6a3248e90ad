"""What a training step is, for each kind of model."""

from collections.abc import Callable

import losses
import numpy as np
import torch
from corpus import CROP_FRAMES, Corpus, normalised, with_noise
from fast import encode, features, frames_in, project, samples_for
from lineup import RECIPES
from paths import BUILD
from torch import Tensor, nn
from zoo import UNITS, VOCABULARY, Recipe, build, encoder_of

Step = Callable[[int], dict[str, Tensor]]
GUMBEL = (2.0, 0.5)


def task_of(recipe: Recipe, corpus: Corpus) -> tuple[nn.Module, Step]:
    """Return the modules to train and the function that gives a step's loss and measures."""
    model = build(recipe.family, recipe.size, recipe.ctc)
    if recipe.ctc:
        return _ctc(recipe, corpus, model)
    if recipe.family == "hubert":
        return _hubert(recipe, corpus, model)
    return _wav2vec2(recipe, corpus, model)


def _wav2vec2(recipe: Recipe, corpus: Corpus, model: nn.Module) -> tuple[nn.Module, Step]:
    """Ease wav2vec 2.0 in: from random weights it stays at chance for hundreds of steps.

    Over the easing the masked spans grow from 2 frames to 10, and a share of the loss
    on unmasked frames fades from a half to nothing. Then it is wav2vec 2.0 as published.
    """

    def step_of(step: int) -> dict[str, Tensor]:
        progress = min(1.0, step / recipe.easing)
        high, low = GUMBEL
        model.set_gumbel_temperature(high * (low / high) ** progress)
        length = 2 + int(progress * (model.config.mask_time_length - 2))
        wave, _ = corpus.crops(recipe.batch)
        masked = losses.span_mask(recipe.batch, CROP_FRAMES, 0.65 / length, length)
        return losses.wav2vec2(model, wave, masked, losses.sample_negatives(masked), visible_share=0.5 * (1 - progress))

    return nn.ModuleDict({"model": model}), step_of


def _hubert(recipe: Recipe, corpus: Corpus, model: nn.Module) -> tuple[nn.Module, Step]:
    head = nn.Linear(model.config.hidden_size, UNITS)
    labels = np.load(BUILD / "units" / recipe.units / "train.npy")
    begins = np.cumsum([0, *corpus.frames])
    among = int(np.searchsorted(begins, len(labels)))  # the utterances that have units

    def step_of(step: int) -> dict[str, Tensor]:
        wave, places = corpus.crops(recipe.batch, among)
        cut = [labels[begins[i] + first : begins[i] + first + CROP_FRAMES] for i, first in places]
        units = torch.from_numpy(np.stack(cut).astype(np.int64))
        masked = losses.span_mask(recipe.batch, CROP_FRAMES)
        return losses.hubert(model, wave, masked, units, head)

    return nn.ModuleDict({"model": model, "head": head}), step_of


def _ctc(recipe: Recipe, corpus: Corpus, model: nn.Module) -> tuple[nn.Module, Step]:
    encoder = encoder_of(model)
    _start_from(recipe, encoder)
    model.freeze_feature_encoder()
    by_length = np.argsort(corpus.frames, kind="stable")
    texts = [spelled(row["text"]) for row in corpus.rows]

    def step_of(step: int) -> dict[str, Tensor]:
        first = int(torch.randint(len(by_length) - recipe.batch, ()))
        chosen = by_length[first : first + recipe.batch]
        wave, lengths = padded([corpus.wave(i) for i in chosen])
        return {"loss": ctc_loss(model, wave, lengths, [texts[i] for i in chosen])}

    return nn.ModuleDict({"model": model}), step_of


def _start_from(recipe: Recipe, encoder: nn.Module) -> None:
    source = RECIPES[recipe.start]
    pretrained = build(source.family, source.size)
    state = torch.load(BUILD / "runs" / recipe.start / "state.pt", weights_only=True)["modules"]
    pretrained.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    encoder.load_state_dict(encoder_of(pretrained).state_dict())


def spelled(text: str) -> list[int]:
    """Return the tokens of a sentence: letters, apostrophe, and | between words."""
    kept = "".join(c if c in VOCABULARY else " " for c in text.lower())
    return [VOCABULARY[c] for c in "|".join(kept.split())]


def padded(waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return normalised waves padded with zeros to one length, and their frame counts."""
    lengths = torch.tensor([frames_in(len(w)) for w in waves])
    batch = torch.zeros(len(waves), max(samples_for(int(lengths.max())), max(map(len, waves))))
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = with_noise(normalised(torch.from_numpy(wave)[None]))[0]
    return batch[:, : samples_for(int(lengths.max()))], lengths


def ctc_loss(model: nn.Module, wave: Tensor, lengths: Tensor, texts: list[list[int]]) -> Tensor:
    """Return the CTC loss; a frame mask goes with the layer-norm models, as in the public ones."""
    encoder = encoder_of(model)
    with torch.no_grad():
        extracted = features(encoder, wave)
    projected, _ = project(encoder, extracted)
    real = torch.arange(extracted.shape[1])[None] < lengths[:, None]
    masked = losses.span_mask(*extracted.shape[:2], starts=0.005) & real
    layer_norm = model.config.feat_extract_norm == "layer"
    scores = model.lm_head(encode(encoder, projected, masked, real if layer_norm else None))
    targets = torch.tensor([t for text in texts for t in text])
    return nn.functional.ctc_loss(
        scores.log_softmax(-1).transpose(0, 1),
        targets,
        lengths,
        torch.tensor([len(t) for t in texts]),
        blank=0,
        reduction="mean",
        zero_infinity=True,
    )
