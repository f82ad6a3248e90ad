"""The units HuBERT predicts: k-means on MFCC, or on the layers of an earlier model.

`python units.py mfcc` or `python units.py RUN` writes one label a frame of a set,
on the frame grid of the models.
"""

import sys

import fast
import numpy as np
import torch
from corpus import Corpus, normalised
from paths import BUILD
from scipy.fft import dct
from sklearn.cluster import MiniBatchKMeans
from trained import trained_encoder
from zoo import UNITS

SETS = ("train", "development", "analysis")
LAYER = 3  # of the earlier model: the block whose output is clustered
UTTERANCES = 3000  # the most that an earlier model labels: it is slower than MFCC
SAMPLE = 150_000  # frames that k-means sees


def log_mel(wave: np.ndarray, bands: int = 40) -> np.ndarray:
    """Return log mel energies (frames, bands): window 400, hop 320, no padding, as the models."""
    wave = np.append(wave[:1], wave[1:] - 0.97 * wave[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(wave, fast.FIELD)[:: fast.STRIDE]
    power = np.abs(np.fft.rfft(frames * np.hamming(fast.FIELD), 512)) ** 2
    return np.log(power @ _mel_filters(bands).T + 1e-4)


def _mel_filters(bands: int) -> np.ndarray:
    top = 2595 * np.log10(1 + 8000 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(512, 1 / 16000)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rise, fall))


def mfcc(wave: np.ndarray) -> np.ndarray:
    """Return 13 cepstra with their first and second differences, (frames, 39)."""
    base = dct(log_mel(wave), norm="ortho")[:, :13]
    first = np.gradient(base, axis=0)
    return np.hstack([base, first, np.gradient(first, axis=0)]).astype(np.float32)


def described(corpus: Corpus, source: str) -> np.ndarray:
    """Return the features of every frame of a set, (frames, channels)."""
    if source == "mfcc":
        return np.vstack([mfcc(corpus.wave(i)) for i in range(len(corpus.frames))])
    encoder = trained_encoder(source)
    count = min(len(corpus.frames), UTTERANCES)
    assert not encoder.config.do_stable_layer_norm  # pre-norm models norm what leaves the last block
    del encoder.encoder.layers[LAYER:]
    return np.vstack([_block_output(encoder, corpus.wave(i)) for i in range(count)])


@torch.no_grad()
def _block_output(encoder: torch.nn.Module, wave: np.ndarray) -> np.ndarray:
    """Return the output of block LAYER, without running the blocks above it."""
    extracted = fast.features(encoder, normalised(torch.from_numpy(wave)[None]))
    return fast.encode(encoder, fast.project(encoder, extracted)[0], None)[0].numpy()


def main(source: str) -> None:
    """Cluster the training set's frames and label every set."""
    folder = BUILD / "units" / source
    if (folder / f"{SETS[-1]}.npy").exists():
        return
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    train = described(Corpus("train"), source)
    mean, scale = train.mean(0), train.std(0)
    chosen = np.random.default_rng(0).choice(len(train), min(SAMPLE, len(train)), replace=False)
    means = MiniBatchKMeans(UNITS, batch_size=10_000, n_init=3, max_iter=60, random_state=0)
    means.fit((train[chosen] - mean) / scale)
    for name in SETS:
        frames = train if name == "train" else described(Corpus(name), source)
        labels = np.concatenate([means.predict((part - mean) / scale) for part in np.array_split(frames, 20)])
        np.save(folder / f"{name}.npy", labels.astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1])
