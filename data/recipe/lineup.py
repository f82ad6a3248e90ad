"""Which models are trained, and for how long.

A HuBERT may name an earlier one as the source of its units: `units="hubert-small"` is
a second iteration. None of these is one yet.
"""

from zoo import Recipe

RECIPES = {
    r.name: r
    for r in (
        Recipe("w2v2-small", "wav2vec2", "small", 101, 2800, 1.0e-3, warmup=200),
        Recipe("hubert-small", "hubert", "small", 103, 1500, 1.0e-3, units="mfcc", warmup=125, fall=11 / 12),
        Recipe("hubert-large", "hubert", "large", 105, 900, 1.5e-3, units="mfcc"),
        Recipe("w2v2-large", "wav2vec2", "large", 102, 1500, 1.0e-3, easing=450),
        Recipe("hubert-small-ctc", "hubert", "small", 107, 800, 1.0e-3, start="hubert-small", batch=8),
        Recipe("w2v2-small-ctc", "wav2vec2", "small", 106, 800, 1.0e-3, start="w2v2-small", batch=8),
    )
}

SHIPPED = ("w2v2-small", "w2v2-large", "hubert-small", "hubert-large", "w2v2-small-ctc", "hubert-small-ctc")
