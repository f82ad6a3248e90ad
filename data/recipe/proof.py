"""Measure the shipped folders on voices and sentences no training saw.

`python proof.py NAME` measures one model, `python proof.py twin-small` the untrained
twin of a size, `log-mel` the plain spectrum, and `python proof.py all` joins them into proof.csv and probe.png.
Everything is measured on the analysis set, with the weights as a user loads them
(float16 on disk, float32 in use); linear probes are fitted on the probe set (training
voices, other sentences).
"""

import csv
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from corpus import Corpus
from export import loaded
from figure import draw
from lineup import RECIPES, SHIPPED
from paths import BUILD, CHECKPOINTS, DATA, fresh
from pretext import character_errors, contrastive_accuracy, unit_accuracy
from probe import frame_labels, participation_ratio, phone_marks, probe_accuracy
from trained import states, trained_encoder, untrained_encoder
from units import log_mel

COLUMNS = ("model", "measure", "layer", "value", "chance", "untrained", "n")
TWIN_SEED = 900
FITTED = 150  # utterances of the probe set that a probe is fitted on
Described = Callable[[np.ndarray], list[np.ndarray]]
Row = dict[str, object]


def collect(describe: Described, name: str, every: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the states of each layer and the phone labels, on every `every`-th labelled frame."""
    corpus = Corpus(name)
    marks = phone_marks(corpus.folder)
    layers, labels = [], []
    for i, row in enumerate(corpus.rows[:FITTED]):
        described = describe(corpus.wave(i))
        label = frame_labels(marks[row["id"]], len(described[0]))
        kept = np.flatnonzero(label >= 0)[::every]
        layers.append([state[kept].astype(np.float32) for state in described])
        labels.append(label[kept])
    return [np.vstack(parts) for parts in zip(*layers, strict=True)], np.concatenate(labels)


def layer_rows(name: str, describe: Described) -> Iterator[Row]:
    """Yield the phone probe and the participation ratio of each layer."""
    train, train_labels = collect(describe, "probe", 2)
    test, test_labels = collect(describe, "analysis", 1)
    chance = np.bincount(test_labels).max() / len(test_labels)
    for layer, (a, b) in enumerate(zip(train, test, strict=True)):
        accuracy = probe_accuracy((a, train_labels), (b, test_labels))
        yield _row(name, "phone_probe", layer, accuracy, chance, "", len(test_labels))
        yield _row(name, "participation_ratio", layer, participation_ratio(b), "", "", len(test_labels))


def pretext_rows(name: str) -> Iterator[Row]:
    """Yield what the model was trained to do, on the analysis set."""
    if RECIPES[name].ctc:
        measured = character_errors(name, TWIN_SEED)
    elif RECIPES[name].family == "wav2vec2":
        measured = contrastive_accuracy(name, TWIN_SEED)
    else:
        measured = unit_accuracy(name, TWIN_SEED)
    for measure, (value, chance, untrained, n) in measured.items():
        yield _row(name, measure, "", value, chance, untrained, n)


def float16_rows(name: str, count: int = 10) -> Iterator[Row]:
    """Yield, for each layer, the relative change of its states that float16 on disk costs."""
    corpus, ours, theirs = Corpus("analysis"), trained_encoder(name), loaded(name)
    pairs = [(states(ours, corpus.wave(i)), states(theirs, corpus.wave(i))) for i in range(count)]
    for layer in range(len(pairs[0][0])):
        a, b = (np.vstack([pair[side][layer] for pair in pairs]) for side in (0, 1))
        yield _row(name, "float16_change", layer, np.linalg.norm(a - b) / np.linalg.norm(a), "", "", len(a))


def measure(name: str) -> None:
    """Measure one model, or an untrained twin, and write its rows, unless that is done."""
    if fresh(BUILD / "proof" / f"{name}.csv", CHECKPOINTS / name / "model.safetensors"):
        return
    if name == "log-mel":
        rows = [*layer_rows(name, lambda wave: [log_mel(wave)])]
    elif name.startswith("twin-"):
        model = next(r.name for r in RECIPES.values() if r.size == name.removeprefix("twin-"))
        rows = [*layer_rows(name, _describer(untrained_encoder(model, TWIN_SEED)))]
    else:
        rows = [*pretext_rows(name), *layer_rows(name, _describer(loaded(name))), *float16_rows(name)]
    _write(BUILD / "proof" / f"{name}.csv", rows)


def join() -> None:
    """Put every model beside its untrained twin, and write the table and the figure."""
    twins = {
        (r["model"], r["measure"], r["layer"]): r["value"] for size in ("small", "large") for r in _read(f"twin-{size}")
    }
    rows = _read("log-mel")
    for name in SHIPPED:
        for row in _read(name):
            twin = twins.get((f"twin-{RECIPES[name].size}", row["measure"], row["layer"]), "")
            rows.append(row | {"untrained": row["untrained"] or twin})
    _write(DATA / "proof.csv", rows)
    draw(rows, DATA / "probe.png")


def _describer(encoder: torch.nn.Module) -> Described:
    return lambda wave: states(encoder, wave)


def _row(model: str, measure: str, layer: object, value: float, chance: object, untrained: object, n: int) -> Row:
    numbers = [v if isinstance(v, str) else f"{float(v):.6f}" for v in (value, chance, untrained)]
    return dict(zip(COLUMNS, (model, measure, layer, *numbers, n), strict=True))


def _read(name: str) -> list[Row]:
    with open(BUILD / "proof" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: object, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    join() if sys.argv[1] == "all" else measure(sys.argv[1])
