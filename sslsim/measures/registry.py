"""The measures of two layers by name, and `similarity` on two arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from sslsim.errors import SslsimError, close_match
from sslsim.measures import attention, layers, neurons
from sslsim.measures import neighbours as sampled
from sslsim.measures import regression as heldout
from sslsim.measures.moments import Marginal, check_pair, moments, squared_norms
from sslsim.measures.products import Array, block


@dataclass(frozen=True)
class Measure:
    """How one measure is computed and what it depends on.

    Attributes
    ----------
    level : {'neuron', 'layer'}
        What is compared: single neurons, or the subspace or geometry of whole layers.
    score : callable
        ``score(moments, **options) -> float``; with `norms`, ``score(moments, norms_x, norms_y, **options)``.
    symmetric : bool
        Whether score(x, y) = score(y, x).
    scaling : bool
        Whether raw and z-scored neurons differ, so that `standardize` is an option.
    standardize : bool
        What tables say of a measure without that option: False for one of neurons in their own units.
    norms : bool
        Whether the squared norms of the frames are needed beside the moments.
    ranks : callable, optional
        ``ranks(moments, **options) -> (k_x, k_y)``: the components of each side that the score is made of.
    canonical : bool
        Whether the score is made of `Moments.canonical`.
    own : callable, optional
        ``own(marginal, **options)`` computes, and the marginal keeps, what the score needs of one layer alone.
    utterances : bool
        Whether the moments must keep what is summed by utterance and by group of utterances.
    prepare : callable, optional
        For a measure that needs the frames: ``score(prepare(x_frames, **options), prepare(y_frames, **options))`` takes
        the place of a score of moments.
    matching : callable, optional
        The score as a function of the absolute correlations (n_neurons_x, n_neurons_y): it speaks of single neurons, so
        that a random basis is its control.
    """

    level: str
    score: Callable[..., float]
    symmetric: bool
    scaling: bool
    standardize: bool = True
    norms: bool = False
    ranks: Callable[..., tuple[int, int]] | None = None
    canonical: bool = False
    own: Callable[..., Any] | None = None
    utterances: bool = False
    prepare: Callable[..., Tensor] | None = None
    matching: Callable[[Tensor], float] | None = None


def _components(own: Marginal, **_: bool) -> None:
    own.components  # noqa: B018


def _scaled_components(own: Marginal, standardize: bool) -> None:
    (own.components if standardize else own.raw_components)  # noqa: B018


MEASURES: dict[str, Measure] = {
    "max_corr": Measure("neuron", neurons.max_corr, symmetric=False, scaling=False, matching=neurons.best_match),
    "matched_corr": Measure("neuron", neurons.matched_corr, symmetric=True, scaling=False, matching=neurons.one_to_one),
    "soft_matched_corr": Measure("neuron", neurons.soft_matched_corr, symmetric=True, scaling=False),
    "linreg": Measure("neuron", neurons.linreg, symmetric=False, scaling=False, own=_components),
    "linreg_r2": Measure("neuron", neurons.linreg_r2, symmetric=False, scaling=False, own=_components),
    "linreg_heldout": Measure(
        "neuron", heldout.linreg_heldout, symmetric=False, scaling=False, own=heldout.prepare_fits, utterances=True
    ),
    "cca": Measure(
        "layer", layers.cca, symmetric=True, scaling=False, own=_components, ranks=layers.cca_ranks, canonical=True
    ),
    "svcca": Measure(
        "layer", layers.svcca, symmetric=True, scaling=True, own=_scaled_components, ranks=layers.svcca_ranks
    ),
    "svcca_below": Measure(
        "layer",
        partial(layers.svcca, truncation="below"),
        symmetric=True,
        scaling=True,
        own=_scaled_components,
        ranks=partial(layers.svcca_ranks, truncation="below"),
    ),
    "pwcca": Measure("layer", layers.pwcca, symmetric=False, scaling=True, own=_components, canonical=True),
    "linear_cka_biased": Measure("layer", layers.linear_cka_biased, symmetric=True, scaling=True),
    "linear_cka_dropped": Measure("layer", layers.linear_cka_dropped, symmetric=True, scaling=False, standardize=False),
    "linear_cka_debiased": Measure("layer", layers.linear_cka_debiased, symmetric=True, scaling=True, norms=True),
    "between_utterance_cka": Measure(
        "layer", layers.between_utterance_cka, symmetric=True, scaling=True, utterances=True
    ),
    "procrustes": Measure("layer", layers.procrustes, symmetric=True, scaling=True),
    "mutual_knn": Measure("layer", sampled.mutual_knn, symmetric=True, scaling=True, prepare=sampled.neighbours),
    "rbf_cka": Measure("layer", sampled.rbf_cka, symmetric=True, scaling=True, prepare=sampled.kernel),
}


def level_of(name: str) -> str:
    """Level at which a measure compares: 'neuron', 'layer' or 'attention'."""
    of_attention = name in attention.MEASURES or name in attention.LAYER_MEASURES
    return "attention" if of_attention else measure_named(name).level


def has_scaling(name: str) -> bool:
    """Whether a score comes under both scalings; measures of attention and shares of neurons come under one."""
    return name in MEASURES and MEASURES[name].scaling


def measure_named(name: str) -> Measure:
    """Return the layer measure called `name`; an unknown name is an error that suggests a close one."""
    if name in attention.LAYER_MEASURES:
        raise SslsimError(f"unknown measure {name!r}; it compares attention: use compare or {name}")
    if name in attention.MEASURES:
        raise SslsimError(f"unknown measure {name!r}; it compares attention heads: use compare or attention_similarity")
    if name not in MEASURES:
        known = [*MEASURES, *attention.MEASURES, *attention.LAYER_MEASURES]
        raise SslsimError(f"unknown measure {name!r}{close_match(name, known)}")
    return MEASURES[name]


def similarity(
    measure: str,
    x: Array,
    y: Array,
    *,
    standardize: bool = True,
    utterances: Sequence[int] | None = None,
    device: str = "cpu",
    **options: Any,
) -> float:
    """Similarity of two layers on the same frames; higher is more alike, a layer with itself gives 1.

    Parameters
    ----------
    measure : str
        A name in ``sslsim.MEASURES``.
    x, y : arrays of shape (n_frames, n_neurons_x) and (n_frames, n_neurons_y)
        Activations, numpy or torch. Directional measures ask for x in terms of y.
    standardize : bool
        Z-score every neuron first; measures of single neurons and cca do not depend on scale.
    utterances : sequence of int, optional
        Number of frames of each utterance, in order: linreg_heldout and between_utterance_cka need it.
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
    if chosen.scaling:
        options["standardize"] = standardize
    try:
        if chosen.prepare:
            return _similarity_of_frames(chosen, x, y, device, **options)
        if chosen.utterances and utterances is None:
            raise SslsimError(f"measure {measure!r} needs utterances=, the number of frames of each, in order")
        m = moments(x, y, utterances=utterances if chosen.utterances else None, device=device)
        norms: list[Tensor] = []
        if chosen.norms:
            norms = [squared_norms(side, own, standardize=standardize)[0] for side, own in ((x, m.x), (y, m.y))]
        return chosen.score(m, *norms, **options)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise SslsimError(f"measure {measure!r}: {str(error).split('() ')[-1]}") from None
        raise


def _similarity_of_frames(
    measure: Measure, x: Array, y: Array, device: str, sample: int = sampled.SAMPLE, **options: Any
) -> float:
    check_pair(x, y)
    assert measure.prepare
    rows: Any = sampled.sample_frames(x, sample)
    return measure.score(*(measure.prepare(block(side[rows], None), device=device, **options) for side in (x, y)))
