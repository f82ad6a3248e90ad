"""How well a model does what it was trained to do: value, chance, untrained twin, n."""

import numpy as np
import torch
from corpus import Corpus, normalised
from fast import encode, features, project
from lineup import RECIPES
from losses import hubert, quantise, sample_negatives, span_mask, wav2vec2
from paths import BUILD, CHECKPOINTS
from tasks import spelled
from torch import nn
from transformers import HubertForCTC, HubertModel, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from zoo import NEGATIVES, UNITS, build, encoder_of

Measured = dict[str, tuple[float, float | str, float, int]]
_CLASSES = {
    ("wav2vec2", True): Wav2Vec2ForCTC,
    ("wav2vec2", False): Wav2Vec2ForPreTraining,
    ("hubert", True): HubertForCTC,
    ("hubert", False): HubertModel,
}


def shipped(name: str) -> nn.Module:
    """Return the model with its head, from the shipped folder, float32."""
    recipe = RECIPES[name]
    kind = _CLASSES[recipe.family, recipe.ctc]
    return kind.from_pretrained(CHECKPOINTS / name, dtype=torch.float32).eval()


def twin(name: str, seed: int) -> nn.Module:
    """Return the same architecture with random weights."""
    torch.manual_seed(seed)
    return build(RECIPES[name].family, RECIPES[name].size, RECIPES[name].ctc).eval()


def _waves() -> list[torch.Tensor]:
    corpus = Corpus("analysis")
    return [normalised(torch.from_numpy(corpus.wave(i))[None]) for i in range(len(corpus.frames))]


def _masked(frames: int, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return span_mask(1, frames)


def contrastive_accuracy(name: str, seed: int) -> Measured:
    """Return how often the true target beats the negatives, and the codebook's perplexity."""
    value, perplexity, masked, frames = _contrastive_scores(shipped(name))
    other, other_perplexity, *_ = _contrastive_scores(twin(name, seed))
    return {
        "contrastive_accuracy": (value, 1 / (NEGATIVES + 1), other, masked),
        "codebook_perplexity": (perplexity, "", other_perplexity, frames),
    }


@torch.no_grad()
def _contrastive_scores(model: nn.Module) -> tuple[float, float, int, int]:
    """Return accuracy, perplexity of the codes of all frames, and the two numbers of frames."""
    right, total, normed = 0.0, 0, []
    for i, wave in enumerate(_waves()):
        frames = features(model.wav2vec2, wave)
        masked = _masked(frames.shape[1], i)
        measured = wav2vec2(model, wave, masked, sample_negatives(masked))
        right += float(measured["accuracy"]) * int(masked.sum())
        total += int(masked.sum())
        normed.append(project(model.wav2vec2, frames)[1])
    everything = torch.cat(normed, 1)
    all_frames = torch.ones(everything.shape[:2], dtype=torch.bool)
    return right / total, float(quantise(model.quantizer, everything, all_frames)[1]), total, everything.shape[1]


def unit_accuracy(name: str, seed: int) -> Measured:
    """Return the accuracy on masked and unmasked units; chance is the most frequent unit."""
    labels = np.load(BUILD / "units" / RECIPES[name].units / "analysis.npy").astype(np.int64)
    state = torch.load(BUILD / "runs" / name / "state.pt", weights_only=True)["modules"]
    model, other = shipped(name), twin(name, seed)
    head, random_head = (nn.Linear(model.config.hidden_size, UNITS) for _ in range(2))
    # The head is part of training only and is not shipped.
    head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
    ours, counts = _unit_scores(model, head, torch.from_numpy(labels))
    theirs, _ = _unit_scores(other, random_head, torch.from_numpy(labels))
    chance = np.bincount(labels).max() / len(labels)
    return {
        measure: (ours[i], chance, theirs[i], int(counts[i]))
        for i, measure in enumerate(("masked_unit_accuracy", "unmasked_unit_accuracy"))
    }


@torch.no_grad()
def _unit_scores(model: nn.Module, head: nn.Module, units: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy on masked and on unmasked frames, and how many there were of each."""
    right, counts = np.zeros(2), np.zeros(2)
    parts = units.split(Corpus("analysis").frames.tolist())
    for i, (wave, unit) in enumerate(zip(_waves(), parts, strict=True)):
        masked = _masked(len(unit), i)
        measured = hubert(model, wave, masked, unit[None], head)
        here = np.array([int(masked.sum()), int((~masked).sum())])
        right += here * [float(measured["accuracy"]), float(measured["unmasked"])]
        counts += here
    return right / counts, counts


@torch.no_grad()
def character_errors(name: str, seed: int) -> Measured:
    """Return greedy character error rates; saying nothing at all scores 1."""
    corpus = Corpus("analysis")
    texts = [spelled(row["text"]) for row in corpus.rows]
    half = len(texts) // 2  # the sentences written by hand come first
    parts = {"": slice(None), "_by_hand": slice(half), "_grammar": slice(half, None)}
    lengths = np.array([len(text) for text in texts])
    errors = [
        np.array([_distance(_greedy(model, wave), text) for wave, text in zip(_waves(), texts, strict=True)])
        for model in (shipped(name), twin(name, seed))
    ]
    return {
        f"character_error_rate{part}": (
            errors[0][which].sum() / lengths[which].sum(),
            1.0,
            errors[1][which].sum() / lengths[which].sum(),
            int(lengths[which].sum()),
        )
        for part, which in parts.items()
    }


def _greedy(model: nn.Module, wave: torch.Tensor) -> list[int]:
    encoder = encoder_of(model)
    projected, _ = project(encoder, features(encoder, wave))
    best = model.lm_head(encode(encoder, projected, None))[0].argmax(-1).unique_consecutive()
    return [int(token) for token in best if token]


def _distance(a: list[int], b: list[int]) -> int:
    """Return the edit distance of two token sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]
