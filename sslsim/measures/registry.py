"""All measures by name, what tables and figures say of them, and `similarity` of two arrays.

A measure that depends on the units of the neurons stands there twice: NAME z-scores every neuron first, NAME_raw takes
neurons in their own units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from sslsim.errors import SslsimError, close_match
from sslsim.measures import attention, layers, neighbours, neurons, regression
from sslsim.measures.arrays import Array, block, check_pair
from sslsim.measures.moments import Marginal, moments, squared_norms


@dataclass(frozen=True)
class Measure:
    """What one measure says, how it is computed and what it depends on.

    Attributes
    ----------
    level : {'neuron', 'layer', 'attention'}
        What is compared: single neurons, the subspace or geometry of whole layers, or attention.
    title : str
        What figures write.
    description : str
        What it says, in one line.
    score : callable
        ``score(moments, **options) -> float``; with `norms`, ``score(moments, norms_x, norms_y, **options)``; with
        `prepare`, see there; of attention, the function of two layers' maps.
    value_range : str
        Smallest and largest value.
    symmetric : bool
        Whether score(x, y) = score(y, x).
    standardize : bool
        Whether neurons are z-scored first, and so which norms are needed.
    norms : bool
        Whether the squared norms of the frames are needed beside the moments.
    ranks : callable, optional
        ``ranks(moments) -> (k_x, k_y)``: the components of each side that the score is made of.
    canonical : bool
        Whether the score is made of `Moments.canonical`.
    prepare_layer : callable, optional
        ``prepare_layer(marginal)`` computes, and the marginal keeps, what the score needs of one layer alone.
    utterances : bool
        Whether the moments must keep sums of groups of utterances.
    prepare : callable, optional
        For a measure that needs the frames: ``score(prepare(x_frames, **options), prepare(y_frames, **options))``.
    matching : callable, optional
        The score as a function of the absolute correlations (n_neurons_x, n_neurons_y): it speaks of single neurons, so
        that a random basis is its control.
    """

    level: str
    title: str
    description: str
    score: Callable[..., Any]
    value_range: str = "0 to 1"
    symmetric: bool = True
    standardize: bool = True
    norms: bool = False
    ranks: Callable[..., tuple[int, int]] | None = None
    canonical: bool = False
    prepare_layer: Callable[[Marginal], Any] | None = None
    utterances: bool = False
    prepare: Callable[..., Tensor] | None = None
    matching: Callable[[Tensor], float] | None = None


def _scaled(name: str, title: str, description: str, *, needs: dict[str, Any] | None = None, **made: Any) -> dict:
    """Entries of a layer measure under both scalings; functions in `needs` are told which."""
    entries = {}
    for suffix, standardize, scaling in (("", True, "standardised"), ("_raw", False, "raw")):
        bound = {key: partial(function, standardize=standardize) for key, function in (needs or {}).items()}
        says = description if standardize else f"{name} of neurons in their own units"
        entries[name + suffix] = Measure(
            "layer", f"{title}, {scaling}", says, standardize=standardize, **(made | bound)
        )
    return entries


def _svcca(name: str, title: str, description: str, truncation: str) -> dict[str, Measure]:
    score, ranks = (partial(function, truncation=truncation) for function in (layers.svcca, layers.svcca_ranks))
    needs = {"score": score, "ranks": ranks, "prepare_layer": Marginal.components}
    return _scaled(name, title, description, needs=needs)


def _of_heads(name: str, title: str, description: str, value_range: str = "0 to 1") -> dict[str, Measure]:
    score = partial(attention.attention_similarity, name)
    return {name: Measure("attention", title, description, score, value_range, symmetric=False)}


MEASURES: dict[str, Measure] = {
    "max_corr": Measure(
        "neuron",
        "max_corr: best single neuron",
        "mean over neurons of x of the best absolute correlation with one neuron of y",
        neurons.max_corr,
        symmetric=False,
        matching=neurons.best_match,
    ),
    "matched_corr": Measure(
        "neuron",
        "matched_corr: one-to-one neurons",
        "mean absolute correlation under the best one-to-one assignment of neurons",
        neurons.matched_corr,
        matching=neurons.one_to_one,
    ),
    "soft_matched_corr": Measure(
        "neuron",
        "soft_matched_corr: shared partners",
        "the same under the best soft matching, for layers of different width",
        neurons.soft_matched_corr,
    ),
    "linreg": Measure(
        "neuron",
        "linreg: all neurons, in-sample R",
        "mean over neurons of x of R of a regression on all neurons of y, in sample (R, not R2)",
        neurons.linreg,
        symmetric=False,
        prepare_layer=Marginal.components,
    ),
    "linreg_r2": Measure(
        "neuron",
        "linreg_r2: all neurons, in-sample R2",
        "the same with R2: the share of the variance of x in the subspace of y, chance included",
        neurons.linreg_r2,
        symmetric=False,
        prepare_layer=Marginal.components,
    ),
    "linreg_heldout": Measure(
        "neuron",
        "linreg_heldout: R2 on other utterances",
        "mean over neurons of x of R2 on utterances left out, ridge regression on all neurons of y",
        regression.linreg_heldout,
        "at most 1",
        symmetric=False,
        prepare_layer=regression.prepare_fits,
        utterances=True,
    ),
    "cca": Measure(
        "layer",
        "cca: mean canonical correlation",
        "mean canonical correlation",
        layers.cca,
        prepare_layer=Marginal.components,
        ranks=layers.cca_ranks,
        canonical=True,
    ),
    **_svcca(
        "svcca",
        "svcca: 99 % of variance",
        "mean canonical correlation of the fewest principal components that hold 99 % of the variance",
        "reaching",
    ),
    **_svcca(
        "svcca_below",
        "svcca: below 99 %, as published",
        "svcca on one component fewer, as the code of Wu et al. truncates",
        "below",
    ),
    **_scaled(
        "pwcca",
        "pwcca: projection-weighted",
        "canonical correlations weighted by how much of x each accounts for",
        needs={"score": layers.pwcca},
        symmetric=False,
        prepare_layer=Marginal.components,
        canonical=True,
    ),
    **_scaled("linear_cka_biased", "linear CKA, biased", "linear CKA", needs={"score": layers.linear_cka_biased}),
    "linear_cka_dropped": Measure(
        "layer",
        "linear CKA, raw, 3 largest neurons dropped",
        "linear_cka_biased_raw without the 3 neurons of largest variance on each side",
        layers.linear_cka_dropped,
        standardize=False,
    ),
    **_scaled(
        "linear_cka_debiased",
        "linear CKA, debiased",
        "linear CKA from the unbiased HSIC: 0 on average for unrelated layers",
        needs={"score": layers.linear_cka_debiased},
        value_range="at most 1",
        norms=True,
    ),
    **_scaled(
        "procrustes",
        "procrustes: after best rotation",
        "cosine of the angular Procrustes distance: what one rotation aligns",
        needs={"score": layers.procrustes},
    ),
    **_scaled(
        "mutual_knn",
        "mutual_knn: shared neighbours",
        "share of the 10 nearest frames (cosine) in common, on at most 2,000 frames",
        needs={"prepare": neighbours.neighbours},
        score=neighbours.mutual_knn,
    ),
    **_scaled(
        "rbf_cka",
        "RBF CKA",
        "CKA of Gaussian kernels as wide as the median distance, on at most 2,000 frames",
        needs={"prepare": neighbours.kernel},
        score=neighbours.rbf_cka,
    ),
    **_of_heads("pearson", "pearson: rows of attention", "mean correlation of the rows of two heads", "-1 to 1"),
    **_of_heads("js", "js: 1 - Jensen-Shannon", "1 - Jensen-Shannon divergence of the rows of two heads / ln 2"),
    **_of_heads("frobenius", "frobenius, bounded", "1 - Frobenius distance of the maps of two heads / sqrt(2 T)"),
    **_of_heads(
        "frobenius_published",
        "frobenius, as published",
        "1 - Frobenius distance of the maps of two heads, as in the paper; falls with T",
        "at most 1",
    ),
    "attention_cka": Measure(
        "attention",
        "attention_cka: all heads together",
        "linear CKA of the attention of two layers, heads as neurons, cells of the maps as frames",
        attention.attention_cka,
    ),
}
EXCESS = {  # beyond random bases, in evidence: chance is near 0
    "neurons_shared": "neurons_shared: best neuron's variance, beyond random bases",
    "max_corr_excess_x": "max_corr_excess_x: best neuron, beyond random bases of x",
    "max_corr_excess_y": "max_corr_excess_y: best neuron, beyond random bases of y",
    "matched_corr_excess_x": "matched_corr_excess_x: one-to-one, beyond random bases of x",
    "matched_corr_excess_y": "matched_corr_excess_y: one-to-one, beyond random bases of y",
}
TITLES = {name: measure.title for name, measure in MEASURES.items()} | EXCESS


def measure_named(name: str) -> Measure:
    """Return the measure called `name`; an unknown name is an error that suggests a close one."""
    if name not in MEASURES:
        raise SslsimError(f"unknown measure {name!r}{close_match(name, MEASURES)}")
    return MEASURES[name]


def level_of(name: str) -> str:
    """Level at which a measure compares: 'neuron' (an excess over random bases too), 'layer' or 'attention'."""
    return "neuron" if name in EXCESS else measure_named(name).level


def title_of(name: str) -> str:
    """Return what figures write for a measure; the name itself for one of the user's."""
    return TITLES.get(name, name)


def reference_table() -> pd.DataFrame:
    """All measures, one row each: name, what it says, range, direction.

    All but the two of Frobenius distance are 1 for a layer with itself and rise with similarity; a direction
    "of x in y" means that the score of (x, y) says how well x is represented in y.
    """
    rows = [
        (name, m.description, m.value_range, "symmetric" if m.symmetric else "of x in y")
        for name, m in MEASURES.items()
    ]
    return pd.DataFrame(rows, columns=["name", "what it says", "range", "direction"])


def similarity(
    measure: str,
    x: Array,
    y: Array,
    *,
    utterances: Sequence[int] | None = None,
    device: str = "cpu",
    **options: Any,
) -> float:
    """Similarity of two layers on the same frames; higher is more alike, a layer with itself gives 1.

    Parameters
    ----------
    measure : str
        A name in ``sslsim.MEASURES``; those of attention compare maps, see `attention_similarity`.
    x, y : arrays of shape (n_frames, n_neurons_x) and (n_frames, n_neurons_y)
        Activations, numpy or torch. Directional measures ask for x in terms of y.
    utterances : sequence of int, optional
        Number of frames of each utterance, in order: linreg_heldout needs it.
    device : str
        Where to compute, such as 'cpu' or 'cuda'.
    **options
        Passed to the measure, such as ``variance`` of svcca; ``sample``, the number of evenly spaced frames that
        mutual_knn and rbf_cka use.

    Examples
    --------
    >>> import numpy as np, sslsim
    >>> x = np.random.default_rng(0).standard_normal((500, 8))
    >>> round(sslsim.similarity("linear_cka_biased", x, x), 6)
    1.0
    """
    chosen = measure_named(measure)
    if chosen.level == "attention":
        function = "attention_cka" if measure == "attention_cka" else "attention_similarity"
        raise SslsimError(f"measure {measure!r} compares attention maps, not frames: use compare or {function}")
    if "standardize" in options:
        raise SslsimError("scaling is part of a measure's name: svcca z-scores neurons, svcca_raw does not")
    try:
        if chosen.prepare:
            return _similarity_of_frames(chosen, x, y, device, **options)
        if chosen.utterances and utterances is None:
            raise SslsimError(f"measure {measure!r} needs utterances=, the number of frames of each, in order")
        m = moments(x, y, utterances=utterances if chosen.utterances else None, device=device)
        norms: list[Tensor] = []
        if chosen.norms:
            sides = ((x, m.x), (y, m.y))
            norms = [squared_norms(frames, side, standardize=chosen.standardize)[0] for frames, side in sides]
        return chosen.score(m, *norms, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise SslsimError(f"measure {measure!r}: {str(error).split('() ')[-1]}") from None
        raise


def _similarity_of_frames(
    measure: Measure, x: Array, y: Array, device: str, sample: int = neighbours.SAMPLE, **options: Any
) -> float:
    check_pair(x, y)
    assert measure.prepare
    rows: Any = neighbours.sample_frames(x, sample)
    return measure.score(*(measure.prepare(block(side[rows], None), device=device, **options) for side in (x, y)))
