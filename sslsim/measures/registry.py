"""All measures by name, what tables and figures say of them, and `similarity` of two arrays.

A measure that depends on the units of the neurons stands here twice: NAME z-scores every neuron first, NAME_raw takes
neurons in their own units.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor

from sslsim.errors import SslsimError, close_match
from sslsim.measures import attention, layers, neighbours, neurons, random_basis
from sslsim.measures.arrays import Array, block, check_pair, numbers
from sslsim.measures.moments import Marginal, moments, squared_norms
from sslsim.parallel import chosen_device


@dataclass(frozen=True)
class Measure:
    """What one measure says, how it is computed and what it depends on.

    ``score(moments, **options)``, of one pair of layers or of many, or with `norms`
    ``score(moments, norms_x, norms_y, **options)``, or with `prepare`
    ``score(prepare(x_frames, **options), prepare(y_frames, **options))``; of attention, a function of two layers' maps.
    """

    level: str  # 'neuron', 'layer' or 'attention'
    title: str  # what figures write
    score: Callable[..., Any]
    description: str  # what it says, in one line
    value_range: str = "0 to 1"
    symmetric: bool = True  # whether score(x, y) = score(y, x)
    standardize: bool = True  # whether neurons are z-scored first, and so which norms are needed
    norms: bool = False  # whether the squared norms of the frames are needed beside the moments
    ranks: Callable[[Marginal], Tensor] | None = None  # of a layer: how many components it is made of
    needs: tuple[str, ...] = ()  # properties of each layer's `Marginal` that it uses
    utterances: bool = False  # whether the moments must keep sums of groups of utterances
    prepare: Callable[..., Tensor] | None = None  # of frames: what the score compares
    reordered: Callable[[Tensor, Tensor], Tensor] | None = None  # the same of the frames in another order
    by_chance: Callable[[int], float] | None = None  # what unrelated layers score on so many frames, where it is known
    costly: bool = False  # whether evidence of all pairs of layers would cost more than it tells
    in_bases: bool = False  # whether the score takes ``best=`` correlations, those of a random basis

    @property
    def of_frames(self) -> bool:
        """Whether moments of all frames do not suffice."""
        return self.utterances or self.prepare is not None


def _of(level: str, title: str, score: Callable[..., Any], description: str = "", **facts: Any) -> Measure:
    """Return a measure; without a description it says what the docstring of its function begins with."""
    return Measure(level, title, score, description or (score.__doc__ or "").split("\n")[0].rstrip("."), **facts)


def _scaled(name: str, title: str, told: Mapping[str, Callable[..., Any]], **facts: Any) -> dict[str, Measure]:
    """Return both entries of a layer measure, whose functions in `told` take ``standardize=``."""
    one, entries = _of("layer", title, **(dict(told) | facts)), {}
    for suffix, standardize, scaling in (("", True, "standardised"), ("_raw", False, "raw")):
        bound: dict[str, Any] = {key: partial(function, standardize=standardize) for key, function in told.items()}
        bound |= {"needs": ("components_raw",)} if "ranks" in told and not standardize else {}
        says = one.description if standardize else f"{name} of the neurons in their own units"
        entry = replace(one, title=f"{title}, {scaling}", description=says, standardize=standardize, **bound)
        entries[name + suffix] = entry
    return entries


def _heads(name: str, title: str, description: str, value_range: str = "0 to 1", **facts: Any) -> dict[str, Measure]:
    # directional: the score of a layer is the mean of its heads' best matches
    score = partial(attention.attention_similarity, name)
    return {name: Measure("attention", title, score, description, value_range, symmetric=False, **facts)}


_neuron, _of_x = partial(_of, "neuron"), partial(_of, "neuron", symmetric=False)
_pca: dict[str, Any] = {"needs": ("components",)}
_below_0: dict[str, Any] = _pca | {"value_range": "at most 1", "in_bases": True}
_debiased: dict[str, Any] = {"value_range": "at most 1", "norms": True}
_heldout: dict[str, Any] = {"value_range": "at most 1", "utterances": True}
_fewest = "Mean canonical correlation of the fewest principal components that hold 99 % of the variance"
_svcca: dict[str, Callable[..., Any]] = {"score": layers.svcca, "ranks": layers.svcca_ranks}
_published = "svcca of one component fewer, as the code of Wu et al. 2020 truncates"
_svcca_below = {key: partial(function, below=True) for key, function in _svcca.items()}
_knn: dict[str, Any] = {"score": neighbours.mutual_knn, "reordered": neighbours.neighbours_in}
_knn |= {"by_chance": neighbours.chance_in_common}
_frobenius = "1 - Frobenius distance of the maps of two heads"
_rbf: dict[str, Any] = {"score": neighbours.rbf_cka, "reordered": neighbours.kernel_in}

MEASURES: dict[str, Measure] = {
    "max_corr": _of_x("max_corr: best single neuron", neurons.max_corr),
    "matched_corr": _neuron("matched_corr: one-to-one neurons", neurons.matched_corr, costly=True),
    "soft_matched_corr": _neuron("soft_matched_corr: shared partners", neurons.soft_matched_corr, costly=True),
    "max_corr_in_bases": _of_x("max_corr in random bases", random_basis.max_corr_in_bases, **_pca),
    "neuron_excess": _of_x("neuron_excess: variance beyond random bases", random_basis.neuron_excess, **_below_0),
    "neuron_count": _of_x("neuron_count: neurons with a partner", random_basis.neuron_count, in_bases=True, **_pca),
    "linreg": _of_x("linreg: all neurons, in-sample R", neurons.linreg, **_pca),
    "linreg_r2": _of_x("linreg_r2: all neurons, in-sample R2", neurons.linreg_r2, **_pca),
    "linreg_heldout": _of_x("linreg_heldout: R2 on other utterances", neurons.linreg_heldout, **_heldout),
    "cca": _of("layer", "cca: mean canonical correlation", layers.cca, ranks=lambda x: x.components.rank, **_pca),
    **_scaled("svcca", "svcca: 99 % of variance", _svcca, description=_fewest, **_pca),
    **_scaled("svcca_below", "svcca: below 99 %, as published", _svcca_below, description=_published, **_pca),
    **_scaled("pwcca", "pwcca: projection-weighted", {"score": layers.pwcca}, symmetric=False, costly=True, **_pca),
    **_scaled("linear_cka_biased", "linear CKA, biased", {"score": layers.linear_cka_biased}),
    "linear_cka_dropped": _of(
        "layer", "linear CKA, raw, 3 largest neurons dropped", layers.linear_cka_dropped, standardize=False
    ),
    **_scaled("linear_cka_debiased", "linear CKA, debiased", {"score": layers.linear_cka_debiased}, **_debiased),
    **_scaled("procrustes", "procrustes: after best rotation", {"score": layers.procrustes}, costly=True),
    **_scaled("mutual_knn", "mutual_knn: shared neighbours", {"prepare": neighbours.neighbours}, **_knn),
    **_scaled("rbf_cka", "RBF CKA", {"prepare": neighbours.kernel}, **_rbf),
    **_heads("pearson", "pearson: rows of attention", "Mean correlation of the rows of two heads", "-1 to 1"),
    **_heads(
        "js", "js: 1 - Jensen-Shannon", "1 - Jensen-Shannon divergence of the rows of two heads / ln 2", costly=True
    ),
    **_heads("frobenius", "frobenius, bounded", f"{_frobenius} / sqrt(2 T)"),
    **_heads(
        "frobenius_published", "frobenius, as published", f"{_frobenius}, as in the paper; falls with T", "at most 1"
    ),
    "attention_cka": _of("attention", "attention_cka: all heads together", attention.attention_cka),
}
BEYOND_BASES = ("neuron_excess", "neuron_count")  # near 0 where neurons are not shared


def measure_named(name: str) -> Measure:
    """Return the measure called `name`; an unknown name is an error that suggests a close one."""
    if not isinstance(name, str) or name not in MEASURES:
        raise SslsimError(f"unknown measure {name!r}{close_match(name, MEASURES)}")
    return MEASURES[name]


def title_of(name: str) -> str:
    """Return what figures write for a measure; the name itself for one of the user's."""
    return MEASURES[name].title if name in MEASURES else name


def reference_table() -> pd.DataFrame:
    """Return all measures, a row each: name, what it says, range, direction ("x in y": how well y represents x)."""
    way = {True: "symmetric", False: "x in y"}
    rows = [(name, one.description, one.value_range, way[one.symmetric]) for name, one in MEASURES.items()]
    return pd.DataFrame(rows, columns=["name", "what it says", "range", "direction"])


def similarity(
    measure: str, x: Array, y: Array, *, utterances: Sequence[int] | None = None, device: str = "cpu", **options: Any
) -> float:
    """Similarity of two layers on the same frames; higher is more alike, a layer with itself gives 1.

    The measure is a name in ``sslsim.MEASURES``; those of attention compare maps, see `attention_similarity`. `x`
    (n_frames, n_neurons_x) and `y` (n_frames, n_neurons_y) are arrays or tables; directional ones ask for x in terms
    of y. linreg_heldout needs the number of frames of each of the `utterances`, in order. Options are passed to the
    measure, such as ``variance`` of svcca; ``sample`` is the number of evenly spaced frames that mutual_knn and rbf_cka
    use. `device` is where to compute, such as 'cpu' or 'cuda'.
    """
    chosen = measure_named(measure)
    if chosen.level == "attention":
        function = "attention_cka" if measure in attention.LAYER_MEASURES else "attention_similarity"
        raise SslsimError(f"measure {measure!r} compares attention, not frames: use compare or {function}")
    if "standardize" in options:
        raise SslsimError("scaling is part of a measure's name: svcca z-scores every neuron, svcca_raw does not")
    x, y, device = numbers(x, "x"), numbers(y, "y"), chosen_device(device)
    try:
        if chosen.prepare:
            check_pair(x, y)
            rows: Any = neighbours.sample_frames(x, options.pop("sample", neighbours.SAMPLE))
            sampled = (block(side[rows], None) for side in (x, y))
            return float(chosen.score(*(chosen.prepare(frames, device=device, **options) for frames in sampled)))
        if chosen.utterances and utterances is None:
            raise SslsimError(f"measure {measure!r} needs utterances=, the number of frames of each, in order")
        m = moments(x, y, utterances=utterances if chosen.utterances else None, device=device)
        sides = ((x, m.x), (y, m.y)) if chosen.norms else ()
        norms = (squared_norms(frames, side, standardize=chosen.standardize) for frames, side in sides)
        return float(chosen.score(m, *norms, **options))
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, SslsimError) or not options:
            raise
        raise SslsimError(f"measure {measure!r}: {str(error).split('() ')[-1]}") from None
