"""Which models are trained, in which order, and for how long.

Each HuBERT is the second of two iterations: a first one predicts clusters of MFCC
(`-first`, not shipped), the second clusters of that one's states (`units`). The large
one takes its units from the first small one. `-b` is the same recipe with other seeds,
from the first iteration on.
"""

from zoo import Recipe

RECIPES = {
    r.name: r
    for r in (
        Recipe("hubert-small-first", "hubert", "small", 103, 1500, 1.0e-3, units="mfcc", warmup=125, fall=11 / 12),
        Recipe("hubert-small-b-first", "hubert", "small", 113, 1500, 1.0e-3, units="mfcc", warmup=125, fall=11 / 12),
        Recipe("w2v2-large", "wav2vec2", "large", 102, 4500, 2.0e-3, warmup=200),
        Recipe("w2v2-small", "wav2vec2", "small", 101, 2800, 1.0e-3, warmup=200),
        Recipe("hubert-small", "hubert", "small", 104, 4000, 1.5e-3, units="hubert-small-first", fall=0.7),
        Recipe("hubert-large", "hubert", "large", 105, 4000, 2.0e-3, units="hubert-small-first", fall=0.7),
        Recipe("hubert-small-b", "hubert", "small", 114, 4000, 1.5e-3, units="hubert-small-b-first", fall=0.7),
        Recipe("w2v2-small-b", "wav2vec2", "small", 111, 2800, 1.0e-3, warmup=200, kept=(100, 400, 1200)),
        Recipe("hubert-small-ctc", "hubert", "small", 107, 1600, 1.0e-3, start="hubert-small", batch=8),
        Recipe("w2v2-small-ctc", "wav2vec2", "small", 106, 1600, 1.0e-3, start="w2v2-small", batch=8),
        Recipe("hubert-large-ctc", "hubert", "large", 109, 1200, 1.0e-3, start="hubert-large", batch=8),
        Recipe("w2v2-large-ctc", "wav2vec2", "large", 108, 1200, 1.0e-3, start="w2v2-large", batch=8),
    )
}

SHIPPED = (
    "w2v2-small",
    "w2v2-small-b",
    "w2v2-large",
    "hubert-small",
    "hubert-small-b",
    "hubert-large",
    "w2v2-small-ctc",
    "w2v2-large-ctc",
    "hubert-small-ctc",
    "hubert-large-ctc",
)
