"""Scores with their controls, mismatch by mismatch and block by block, and numbers estimated from them.

Any function of the scores has a chance level and an interval of its own, because all that they are made from is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sslsim.errors import SslsimError, check_whole
from sslsim.measures.registry import MEASURES
from sslsim.significance.jackknife import LEVEL, jackknife_error, jackknife_interval
from sslsim.significance.nulls import p_value


@dataclass(frozen=True)
class Resampling:
    """How chance levels, intervals and random bases are made; 0 leaves each of them out.

    Pairs of layers at the same relative depth, on which claims and curves rest, get all: `permutations` mismatches of
    utterances, the same for all layers, so that the smallest p is 1 / (permutations + 1) (there are at most one less
    than utterances); `blocks` of utterances, left out one after another for the intervals; `rotations` random bases, to
    see what is found where neurons are not shared. Of models with more layers than `depths` (None: no limit) so many
    evenly spaced layers are taken for that: neighbours say much the same. All other pairs get the first `elsewhere`
    mismatches, for the chance level of a map and of a search, but are not compared by measures that cost much more than
    others (`Measure.costly`); where it is None they are not compared at all.
    """

    permutations: int = 20
    blocks: int = 10
    rotations: int = 20
    block_by: str = "utterance"  # what stays together in a block: 'utterance' or 'speaker'
    seed: int = 0  # of mismatches and random bases
    elsewhere: int | None = 1
    depths: int | None = 7  # of hidden states; attention takes all of its layers

    def __post_init__(self) -> None:
        for name in ("permutations", "rotations", "blocks", "elsewhere", "seed"):
            check_whole(name, getattr(self, name), 0, "nowhere" if name == "elsewhere" else "")
        check_whole("depths", self.depths, 2, "no limit")
        if self.blocks == 1:
            raise SslsimError("blocks is 1; an interval needs at least 2, and 0 is for none")
        if not isinstance(self.block_by, str) or self.block_by not in ("utterance", "speaker"):
            raise SslsimError(f"block_by is {self.block_by!r}; give one of utterance, speaker")


def near_only(resampling: Resampling) -> Resampling:
    """Return the same of pairs at the same relative depth alone, of all layers, without random bases."""
    return replace(resampling, elsewhere=None, rotations=0, depths=None)


def check_resampling(resampling: object) -> None:
    """Raise unless it is a `Resampling`."""
    if not isinstance(resampling, Resampling):
        raise SslsimError(f"resampling is {resampling!r}; give a Resampling")


@dataclass(frozen=True)
class Estimate:
    """A number made of scores, and what it is worth; what was not computed is NaN."""

    value: float
    low: float = np.nan  # interval over speech like this; models and layers are taken as they are
    high: float = np.nan
    error: float = np.nan  # standard error
    chance: float = np.nan  # mean of the same number over the mismatches
    p: float = np.nan  # of at least this value by chance
    rotated: float = np.nan  # mean of the same number in random bases
    p_rotation: float = np.nan  # of at least this value in random bases
    p_zero: float = np.nan  # of 0, two-sided, by the jackknife: for differences, of which mismatches say nothing


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores of many pairs with their controls, NaN where not computed (see `Resampling`).

    `partners` are as from `sslsim.neuron_partners`, with columns for each neuron, where computed: chance, mean over the
    mismatches of all layers of its best correlation with any neuron of the other checkpoint; rotated, mean of its best
    in random bases of the layer where it is largest; p_rotation, of its size in random bases of any layer.
    """

    pairs: pd.DataFrame  # one row a score, as from `sslsim.compare`
    null: NDArray[np.float64]  # scores of every mismatch of utterances, which is the same for all pairs, (K, n_pairs)
    left_out: NDArray[np.float64]  # scores without every block of utterances, (B, n_pairs)
    sizes: tuple[int, ...]  # frames of each block
    rotated: NDArray[np.float64]  # neuron_excess and neuron_count with y in every random basis, (R, n_pairs)
    partners: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        for name in ("null", "left_out", "rotated"):
            if getattr(self, name).shape[1:] != (len(self.pairs),):
                raise SslsimError(f"{name} has shape {getattr(self, name).shape} for {len(self.pairs)} pairs")

    def table(self, level: float = LEVEL) -> pd.DataFrame:
        """Pairs with ci_low, ci_high, chance, p, rotated, p_rotation, mismatches and p_t.

        What was not computed is NaN. p_t is p by a t test with one variance of the mismatches of all layers of two
        models, so that a few of each suffice; mismatches is how many p was ranked among, so that it is never below
        1 / (mismatches + 1). p is that of the pair alone: for the best of several pairs see `estimate` with a maximum.
        Where a measure has no mismatches and its chance level is known (`Measure.by_chance`), chance is that.
        """
        worth = self._worth(lambda values: values, level)
        ends = {"low": "ci_low", "high": "ci_high"}
        table = self.pairs.assign(**{ends.get(k, k): worth[k] for k in worth if k not in ("error", "p_zero")})
        known = [MEASURES[name].by_chance if name in MEASURES else None for name in table.measure]
        if any(known):  # where there are no mismatches
            exact = [of(n) if of else np.nan for of, n in zip(known, table.n_frames, strict=True)]
            table["chance"] = table.get("chance", pd.Series(np.nan, table.index)).fillna(pd.Series(exact, table.index))
        return table.assign(mismatches=np.isfinite(self.null).sum(0), p_t=self._by_t()) if len(self.null) else table

    def _by_t(self) -> NDArray[np.float64]:
        """Return p of each pair by a t test, with one variance of the mismatches of all layers of two models."""
        known = np.isfinite(self.null).sum(0)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # pairs with one mismatch, or none
            squares = np.nan_to_num(np.nanvar(self.null, axis=0)) * known
            distance = self.pairs.value.to_numpy() - np.nanmean(self.null, axis=0)
        spread = pd.DataFrame({"sum": squares, "df": np.maximum(known - 1, 0)})
        keys = [self.pairs[name].to_numpy() for name in ("measure", "model_x", "model_y")]
        both = spread.groupby(keys, sort=False)[["sum", "df"]].transform("sum").to_numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            p = stats.t.sf(distance / np.sqrt(both[:, 0] / both[:, 1] * (1 + 1 / known)), both[:, 1])
        return np.where((both[:, 0] == 0) & (distance <= 0), 1.0, p)  # shares are often 0, as their mismatches are

    @property
    def controlled(self) -> NDArray[np.bool_]:
        """Mask of the pairs that all blocks and mismatches were made of, see `Resampling`; of all if there are none."""
        known = np.isfinite(self.left_out if len(self.left_out) else self.null).sum(0)
        return (2 * known > known.max(initial=0)) | ~known.any()

    def only(self, rows: NDArray[np.bool_] | pd.Series) -> Evidence:
        """Return the evidence of some of the pairs."""
        kept = np.asarray(rows, dtype=bool)
        null, left_out, rotated = (array[:, kept] for array in (self.null, self.left_out, self.rotated))
        pairs = self.pairs[kept].reset_index(drop=True)
        return replace(self, pairs=pairs, null=null, left_out=left_out, rotated=rotated)

    def estimate(
        self, of: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None, level: float = LEVEL
    ) -> Estimate:
        """Make one number of the scores of all pairs, with an interval of this coverage.

        `of` takes scores (..., n_pairs) to numbers (...): their mean by default, ``lambda v: v.max(-1)`` for the best.
        """
        if self.pairs.empty:
            raise SslsimError("no pairs to estimate from; choose models or layers that were compared")
        of = of or (lambda values: values.mean(-1))
        worth = Estimate(**{name: float(number) for name, number in self._worth(of, level).items()})
        if len(self.left_out) and np.isfinite(worth.value) and not np.isfinite(worth.low):
            told = "no interval, and few mismatches: some of the pairs have not all controls (Resampling.depths)"
            warnings.warn(f"{told}; take evidence.only(evidence.controlled)", stacklevel=2)
        return worth

    def _worth(self, of: Callable[[NDArray], NDArray], level: float) -> dict[str, Any]:
        """Fields of an estimate, of one number or of many at once."""
        value, null, left_out, rotated = map(of, (self.pairs.value.to_numpy(), self.null, self.left_out, self.rotated))
        out: dict[str, Any] = {"value": value}
        if len(left_out):
            out["low"], out["high"] = jackknife_interval(value, left_out, self.sizes, level)
            out["error"] = error = jackknife_error(value, left_out, self.sizes)
            out["p_zero"] = 2 * stats.t.sf(abs(value) / np.maximum(error, np.finfo(float).tiny), len(left_out) - 1)
        for name, p, control in (("chance", "p", null), ("rotated", "p_rotation", rotated)):
            if len(control):
                with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # what was not computed
                    out[name] = np.nanmean(control, axis=0)
                out[p] = np.where(np.isfinite(out[name]), p_value(value, control), np.nan)
        return out


def shifted(null: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take what cropping does to the score off the mismatches, so that they can be held against that of all frames.

    `null` (1 + K, n_pairs) is first the score on cropped utterances. Where that was not computed, the mismatches stay
    as they are: fewer frames make chance, if anything, higher.
    """
    return null[1:] + np.nan_to_num(value - null[0])
