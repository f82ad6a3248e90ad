"""Lists of human speech, and of synthetic speech as narrow, to compare claims: python data/recipe/human.py.

Human speech are the prompts of a telephone exchange in Debian's packages asterisk-core-sounds-{en,es,fr,it,ru}-wav, 20
of each voice and as long as the embedded utterances. Writes data/build/human/{voices,narrow}.csv and what they name.
"""

import csv
import random
from pathlib import Path

import soundfile
import soxr
from paths import BUILD, SPEECH

SOUNDS = Path("/usr/share/asterisk/sounds")
SHORTEST, LONGEST, EACH, RATE = 2.9, 6.5, 20, 8_000


def prompts():
    """Yield id, path and speaker of utterances drawn from each voice."""
    for voice in sorted(path for path in SOUNDS.iterdir() if path.is_dir() and path.name != "custom"):
        spoken = [path for path in sorted(voice.rglob("*.wav")) if "silence" not in path.parts]
        fitting = [path for path in spoken if SHORTEST <= soundfile.info(path).duration <= LONGEST]
        for path in sorted(random.Random(0).sample(fitting, EACH)):
            yield path.relative_to(SOUNDS).with_suffix("").as_posix(), path, voice.name


def narrow():
    """Yield id, path and speaker of the embedded utterances, written with the bandwidth of a telephone."""
    for row in csv.DictReader((SPEECH / "manifest.csv").open(encoding="utf-8")):
        samples, rate = soundfile.read(SPEECH / row["path"], dtype="float32")
        path = BUILD / "human" / "narrow" / f"{row['id']}.wav"
        soundfile.write(path, soxr.resample(samples, rate, RATE), RATE, subtype="PCM_16")
        yield row["id"], path, row["speaker"]


(BUILD / "human" / "narrow").mkdir(parents=True, exist_ok=True)
for name, rows in {"voices": prompts(), "narrow": narrow()}.items():
    with (BUILD / "human" / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "path", "speaker"), *rows])
