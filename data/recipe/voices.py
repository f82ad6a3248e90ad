"""Who speaks: voices of the analysis set, of the development set, and of training.

A voice is an espeak-ng variant with an accent, or a flite voice. No variant and
no flite voice is in two of the three groups; the accents are shared.
"""

# ruff: noqa: SIM905  (long word lists read better as text)
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Voice:
    """One speaker: `speed` is words a minute (espeak) or a duration factor (flite)."""

    name: str
    engine: str
    accent: str = ""
    variant: str = ""
    speed: float = 170
    pitch: int = 50
    warp: float = 1.0  # resampling factor: above 1 is higher and faster


def _espeak(accent: str, variant: str, speed: float, pitch: int, warp: float = 1.0) -> Voice:
    return Voice(f"{accent}-{variant}".lower(), "espeak", accent, variant, speed, pitch, warp)


ANALYSIS = (
    _espeak("en-us", "f2", 165, 55),
    _espeak("en-us", "m3", 170, 45),
    _espeak("en-us", "Andy", 160, 50),
    _espeak("en-gb", "belinda", 165, 50),
    _espeak("en-gb", "max", 175, 40),
    _espeak("en-gb-scotland", "m7", 160, 50),
    _espeak("en-gb-scotland", "steph2", 165, 60),
    _espeak("en-gb-x-rp", "linda", 170, 50),
    _espeak("en-gb-x-rp", "adam", 155, 45),
    _espeak("en-gb-x-gbclan", "f4", 170, 50),
    _espeak("en-gb-x-gbcwmd", "david", 165, 55),
    _espeak("en-029", "Alicia", 160, 50),
    Voice("slt", "flite", variant="slt", speed=1.05),
    Voice("rms", "flite", variant="rms", speed=0.95),
)

DEVELOPMENT = (
    _espeak("en-us", "f5", 170, 50),
    _espeak("en-us", "edward", 165, 50),
    _espeak("en-gb", "m5", 160, 55),
    _espeak("en-gb-scotland", "Annie", 165, 50),
    _espeak("en-gb-x-rp", "john", 175, 50),
    _espeak("en-gb-x-gbclan", "Mike", 170, 45),
    _espeak("en-029", "shelby", 165, 50),
    _espeak("en-us-nyc", "m8", 165, 50),
)

_TRAINING_VARIANTS = """Alex Andrea Denis Diogo Gene Hugo Jacky Lee Marco Mario Michael Nguyen
    anika antonio aunty benjamin boris caleb ed f1 f3 grandma grandpa gustave iven
    klatt klatt2 klatt3 m1 m2 m4 m6 marcelo michel miguel norbert pablo paul pedro quincy rob
    robert sandro steph travis victor zac""".split()
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")


def training(count: int) -> list[Voice]:
    """Return `count` voices of the training pool, spread over speed, pitch and warp."""
    pairs = [(a, v) for v, a in product(_TRAINING_VARIANTS, _ACCENTS)]
    voices = []
    for i in range(count):
        speed, pitch = 140 + (i * 37) % 71, 28 + (i * 23) % 45
        warp = 0.88 + 0.01 * ((i * 11) % 27)
        if i % 9 == 8:  # one in nine by flite
            name = ("awb", "kal16")[(i // 9) % 2]
            voices.append(Voice(f"{name}-{i}", "flite", "", name, 150 / speed + 0.1, 0, warp))
        else:
            accent, variant = pairs[(i * 29) % len(pairs)]
            voices.append(Voice(f"{accent}-{variant}-{i}".lower(), "espeak", accent, variant, speed, pitch, warp))
    return voices
