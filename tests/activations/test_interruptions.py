"""Extraction killed at random moments ends in the bytes of one that was not, and never needs more memory for more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from conftest import tone


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Write two dozen utterances, that the work may be cut into many pieces."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(24):
        soundfile.write(folder / f"{seed:02}.flac", tone(seed, 6_000 + 400 * seed), 16_000)
    return folder


def trials(checkpoints, many, folder, n):
    script = Path(__file__).parents[1] / "nursery.py"
    command = [sys.executable, script, checkpoints / "lineup.toml", many, folder, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for trial in found["trials"]:
        print(trial)
    return found


def test_killed_and_resumed_extractions_end_in_the_same_bytes(checkpoints, many, tmp_path):
    found = trials(checkpoints, many, tmp_path, 3)
    assert [trial["same"] for trial in found["trials"]] == 3 * [True]


@pytest.mark.slow
def test_fifty_kills_at_random_moments(checkpoints, many, tmp_path):
    found = trials(checkpoints, many, tmp_path, 50)
    assert [trial["same"] for trial in found["trials"]] == 50 * [True]
    first = [trial["shards"][0] for trial in found["trials"]]
    print(sorted(first))
    assert len(set(first)) >= 20  # the kills met different states
    assert sum(trial["spoilt"] for trial in found["trials"]) >= 8


MEASURE = """
import sys
from pathlib import Path
from sslsim.activations import Study
from sslsim.speech import Segmentation
study = Study(sys.argv[1], sys.argv[2], ("hubert-post",), segmentation=Segmentation(10.0),
    frames=8 * 360, queries=2)
study.extract(sys.argv[3], device="cpu")
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
def test_an_hour_takes_the_memory_of_a_minute(checkpoints, tmp_path):
    minute, hour, one = (tmp_path / name for name in ("minute", "hour", "one"))
    for folder in (minute, hour, one):
        folder.mkdir()
    sound = tone(0, 10 * 16_000)
    for number in range(360):
        for folder in (hour, minute) if number < 6 else (hour,):
            soundfile.write(folder / f"{number}.wav", sound[number:], 16_000)
    with soundfile.SoundFile(one / "x.wav", "w", 16_000, 1) as file:
        for _ in range(360):
            file.write(sound)
    peaks = {}
    for folder in (minute, hour, one):
        command = [
            sys.executable,
            "-c",
            MEASURE,
            checkpoints / "lineup.toml",
            folder,
            tmp_path / f"{folder.name}-store",
        ]
        peaks[folder.name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    print(peaks)
    assert max(peaks["hour"], peaks["one"]) <= 1.1 * peaks["minute"]
