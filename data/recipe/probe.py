"""What a frame is: phone labels from the marks, and a linear probe that reads them."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from phones import INVENTORY

CENTRE, HOP = 0.0125, 0.02  # seconds: frame i is centred at 20 i + 12.5 ms


def phone_marks(folder: Path) -> dict[str, list[tuple[float, float, int]]]:
    """Return the phones of each utterance as (start, end, label number)."""
    marks: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    with open(folder / "marks.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "phone":
                span = float(row["start"]), float(row["end"])
                marks[row["id"]].append((*span, INVENTORY.index(row["label"])))
    return marks


def frame_labels(marks: list[tuple[float, float, int]], frames: int) -> np.ndarray:
    """Return the label under each frame's centre; -1 where no phone is marked."""
    ends = np.array([end for _, end, _ in marks])
    centres = CENTRE + HOP * np.arange(frames)
    which = np.minimum(np.searchsorted(ends, centres, side="right"), len(marks) - 1)
    labels = np.array([label for *_, label in marks])[which]
    outside = (centres < marks[0][0]) | (centres > ends[-1])
    labels[outside] = -1
    return labels


def probe_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], steps: int = 60) -> float:
    """Return the frame accuracy of a softmax regression fitted by L-BFGS.

    Features are standardised by the training set; the ridge penalty is 1e-4.
    """
    mean, scale = train[0].mean(0), train[0].std(0) + 1e-6
    x, y = torch.from_numpy((train[0] - mean) / scale), torch.from_numpy(train[1])
    weight = torch.zeros(x.shape[1], len(INVENTORY), requires_grad=True)
    bias = torch.zeros(len(INVENTORY), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight + bias, y) + 1e-4 * (weight**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        scores = torch.from_numpy((test[0] - mean) / scale) @ weight + bias
    return float((scores.argmax(1).numpy() == test[1]).mean())


def participation_ratio(frames: np.ndarray) -> float:
    """Return (sum of eigenvalues)^2 / sum of squared eigenvalues of the covariance."""
    centred = frames.astype(np.float64) - frames.mean(0)
    scatter = centred.T @ centred
    return float(np.trace(scatter) ** 2 / np.sum(scatter**2))
