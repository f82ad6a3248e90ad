"""Speak the sets: the analysis set that is shipped, and the sets for training.

`python speech.py analysis|train|probe|development` writes audio, manifest.csv and
marks.csv. espeak-ng keeps state between calls, so each block of utterances is spoken
by a process of its own: a set then depends on its order, never on timing.
"""

import csv
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path

import espeak
import flitevoice
import numpy as np
import soundfile
import soxr
from paths import BUILD, SPEECH
from phones import INVENTORY
from sentences import BY_HAND, generated
from voices import ANALYSIS, DEVELOPMENT, Voice, training

RATE = 16_000
BLOCK = 50
LEVEL = 0.07  # root mean square of every utterance, full scale 1


@dataclass(frozen=True)
class Spoken:
    """One utterance: mono int16 at 16 kHz, and its marks (kind, label, start, end)."""

    id: str
    voice: Voice
    text: str
    samples: np.ndarray
    marks: list[tuple[str, str, float, float]]


def plan(name: str) -> list[tuple[str, Voice, str]]:
    """Return (id, voice, sentence) of a set; the sets share no sentence."""
    taken = set(BY_HAND)
    texts = {
        "analysis": generated(50, 11, taken),
        "development": generated(160, 12, taken),
        "probe": generated(300, 13, taken),
        "train": generated(5400, 14, taken),
    }
    assert len(taken) == len(BY_HAND) + sum(map(len, texts.values()))
    if name == "analysis":
        texts[name] = BY_HAND + texts[name]
    pool = {"analysis": ANALYSIS, "development": DEVELOPMENT}.get(name) or training(360)
    step = 5 if name == "analysis" else 7  # no common factor with 14, or with 8 and 360
    return [(f"{name[:1]}{i:04d}", pool[i * step % len(pool)], text) for i, text in enumerate(texts[name])]


def say(item: tuple[str, Voice, str]) -> Spoken:
    """Speak one sentence, warp and resample it, and set its level."""
    identifier, voice, text = item
    if voice.engine == "espeak":
        raw, rate, marks = espeak.speak(text, voice.accent, voice.variant, int(voice.speed), voice.pitch)
    else:
        raw, rate, marks = flitevoice.speak(text, voice.variant, voice.speed)
    wave = soxr.resample(raw.astype(np.float32) / 32768, rate * voice.warp, RATE, quality="VHQ")
    gain = min(LEVEL / np.sqrt(np.mean(wave**2)), 0.97 / np.abs(wave).max())
    samples = np.round(wave * gain * 32767).astype(np.int16)
    scaled = [
        (kind, label, start / voice.warp, min(end / voice.warp, len(samples) / RATE))
        for kind, label, start, end in marks
    ]
    assert all(label in INVENTORY for kind, label, *_ in scaled if kind == "phone")
    return Spoken(identifier, voice, text, samples, scaled)


def speak_block(items: list[tuple[str, Voice, str]]) -> list[Spoken]:
    """Speak a block; runs in a process of its own."""
    return [say(item) for item in items]


def speak_all(items: list[tuple[str, Voice, str]], processes: int = 2) -> list[Spoken]:
    """Speak every item, in order."""
    blocks = [items[i : i + BLOCK] for i in range(0, len(items), BLOCK)]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        return [spoken for block in pool.imap(speak_block, blocks) for spoken in block]


def write_tables(folder: Path, spoken: list[Spoken], audio: str) -> None:
    """Write manifest.csv and marks.csv; `audio` is the path of an utterance with {id}."""
    with open(folder / "manifest.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "path", "speaker", "text", "duration"])
        for s in spoken:
            table.writerow([s.id, audio.format(id=s.id), s.voice.name, s.text, f"{len(s.samples) / RATE:.4f}"])
    with open(folder / "marks.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "kind", "label", "start", "end"])
        for s in spoken:
            table.writerows([s.id, kind, label, f"{start:.4f}", f"{end:.4f}"] for kind, label, start, end in s.marks)


def write_flac(folder: Path, spoken: list[Spoken]) -> None:
    """Write one FLAC file an utterance."""
    for s in spoken:
        soundfile.write(folder / f"{s.id}.flac", s.samples, RATE, "PCM_16", format="FLAC")


def write_array(folder: Path, spoken: list[Spoken]) -> None:
    """Write all samples as one array, with where each utterance begins and ends."""
    np.save(folder / "samples.npy", np.concatenate([s.samples for s in spoken]))
    np.save(folder / "bounds.npy", np.cumsum([0] + [len(s.samples) for s in spoken]))


def main(name: str) -> None:
    """Make one set unless it is there."""
    folder = SPEECH if name == "analysis" else BUILD / "speech" / name
    if (folder / "marks.csv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    spoken = speak_all(plan(name))
    if name == "analysis":
        write_flac(folder, spoken)
    else:
        write_array(folder, spoken)
    write_tables(folder, spoken, "{id}.flac" if name == "analysis" else "samples.npy#{id}")
    seconds = sum(len(s.samples) for s in spoken) / RATE
    print(f"{name}: {len(spoken)} utterances, {seconds / 60:.1f} minutes, {len({s.voice.name for s in spoken})} voices")


if __name__ == "__main__":
    main(sys.argv[1])
