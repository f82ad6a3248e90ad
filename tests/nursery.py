"""Extractions in children of one process that has imported everything, killed at random moments.

python nursery.py LINEUP CORPUS FOLDER TRIALS prints what happened, a JSON list with an entry a trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import AutoFeatureExtractor, AutoModel, HubertModel, Wav2Vec2FeatureExtractor  # noqa: F401

from sslsim.activations import shards as layout
from sslsim.activations.study import Study
from sslsim.encoders import load  # noqa: F401

layout.SHARD_SECONDS, layout.MOST = 0.01, 10_000  # a shard each utterance

LINEUP, CORPUS, FOLDER = (Path(argument) for argument in sys.argv[1:4])
TRIALS = int(sys.argv[4])
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def begin(out: Path) -> int:
    """Extract in a child; this process computes nothing, so that a fork is safe."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        Study(LINEUP, CORPUS, ("hubert-pre", "log-mel"), queries=4).extract(out, device="cpu")
        os._exit(0)
    except BaseException as error:  # noqa: BLE001
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def finish(out: Path) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(begin(out), 0)[1]) == 0


def killed(out: Path, after: int, what: int, rng: random.Random) -> None:
    """Begin and kill a moment after so many shards are there, however fast the machine is; at 0, while it begins."""
    child = begin(out)
    while shards(out) < after:
        time.sleep(0.001)
        if os.waitpid(child, os.WNOHANG)[0]:
            return
    time.sleep(rng.uniform(0, 0.01 if after else 0.3))
    os.kill(child, what)
    os.waitpid(child, 0)


def moment(rng: random.Random) -> int:
    """Draw a number of shards, of the first store or of the second."""
    return rng.choice((0, 100)) + rng.randrange(len(list(CORPUS.iterdir())))


def shards(out: Path) -> int:
    """Shards that are said to be complete, of stores and drafts; a complete store counts a hundred."""
    try:
        return len(list(out.glob(".*.partial/shard*"))) + 100 * len(list(out.glob("[!.]*/store.json")))
    except FileNotFoundError:  # a draft was put in its place between two looks
        return shards(out)


def spoil(out: Path, rng: random.Random) -> bool:
    """Do to a draft what a loss of power may: bytes that were not written, files that are short."""
    files = [file for file in sorted(out.glob(".*.partial/shard*")) if file.stat().st_size]
    if not files:
        return False
    file = rng.choice(files)
    content = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        del content[rng.randrange(len(content)) :]
    file.write_bytes(content)
    return True


def content(out: Path) -> list[tuple[str, str]]:
    files = [file for file in sorted(out.rglob("*")) if file.is_file()]
    return [(str(file.relative_to(out)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def main() -> None:
    finish(FOLDER / "first")
    finish(FOLDER / "whole")
    expected, rng, found = content(FOLDER / "whole"), random.Random(0), []
    for trial in range(TRIALS):
        out = FOLDER / str(trial)
        what, after = SIGNALS[trial % len(SIGNALS)], moment(rng)
        killed(out, after, what, rng)
        states = [shards(out)]
        spoilt = trial % 4 == 3 and spoil(out, rng)
        if trial % 3 == 2:
            killed(out, moment(rng), what, rng)
            states.append(shards(out))
        finish(out)
        found.append(
            {"after": after, "signal": what, "shards": states, "spoilt": spoilt, "same": content(out) == expected}
        )
    print(json.dumps({"files": len(expected), "trials": found}))


main()
