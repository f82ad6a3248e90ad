"""What should be known of the speech before a result is believed: seen while it is decoded, and kept in its index."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.speech.recording import SAMPLE_RATE, WINDOW

NAMING = "name them by --speaker-pattern, by a column speaker of a manifest, or by folders"
_NAMED = 8  # speakers that are told one by one


def flaws(mono: NDArray[np.float32], rate: int) -> tuple[int, int]:
    """Return how many samples are clipped, the third and on of a run at full scale, and how many are digital silence.

    Digital silence is the same sample over and over, as long as a frame or longer.
    """
    full = np.abs(mono) >= 0.99  # of full scale, which 127 of the 128 steps of 8 bits are
    runs = np.diff(np.flatnonzero(np.diff(mono)), prepend=-1, append=len(mono) - 1)
    still = runs[runs * SAMPLE_RATE >= WINDOW * rate].sum()
    return int((full[2:] & full[1:-1] & full[:-2]).sum()), int(still)


def speech_facts(index: pd.DataFrame) -> dict[str, str]:
    """Return what there is to say of an index, or of its columns speaker, n_samples and rate; nothing is decoded."""
    if "rate" not in index or index.empty:
        return {}
    seconds = index.groupby("speaker")["n_samples"].sum().sort_values(ascending=False, kind="stable") / SAMPLE_RATE
    named = seconds.drop("", errors="ignore")
    told = ", ".join(f"{speaker} {spoken:.0f} s" for speaker, spoken in named.items())
    if len(named) > _NAMED:
        told = f"{len(named):,}, of {named.min():.0f} to {named.max():.0f} s each"
    if "" in seconds:
        example = index.utterance[index.speaker == ""].iat[0]
        told += f"{', ' if told else ''}unnamed {seconds['']:.0f} s, such as {example!r}"
    top = f", the lowest with nothing above {index.rate.min() / 2000:g} kHz"
    flawed = {"upsampled": (index.rate < SAMPLE_RATE, top)}
    if "waveform" in index and "still" in index:
        for key, counts in {"clipped": index.clipped, "digital silence": index.still}.items():
            flawed[key] = counts > 0, f", {counts.sum() / (index.end - index.begin).sum():.2%} of all samples"
        flawed["duplicates"] = index.waveform.duplicated(), " with the samples of another"
    n = f"of {len(index):,} utterances"
    return {"speakers": told} | {key: f"{some.sum():,} {n}{more}" for key, (some, more) in flawed.items() if some.any()}
