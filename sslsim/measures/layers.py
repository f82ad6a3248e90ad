"""Layer measures: do two layers span the same subspace, or have the same geometry?

All are functions of the `Moments` of two layers; neurons without variance are left out. ``standardize=True`` z-scores
every neuron first, ``False`` keeps its units; the two differ when few neurons hold most of the variance.
"""

import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.arrays import multiply
from sslsim.measures.moments import Moments

VARIANCE = 0.99  # share of the variance that SVCCA keeps
DROPPED = 3  # neurons of largest variance that linear_cka_dropped leaves out


def cca(m: Moments) -> float:
    """Mean canonical correlation.

    Over all min(k_x, k_y) pairs of directions; k is the rank of each side: the number of varying neurons unless some
    are linearly dependent or frames are few.
    """
    return float(m.canonical[1].mean())


def cca_ranks(m: Moments) -> tuple[int, int]:
    """Rank (k_x, k_y) of each side."""
    return len(m.x.components().variance), len(m.y.components().variance)


def svcca_ranks(
    m: Moments, *, standardize: bool = True, variance: float = VARIANCE, below: bool = False
) -> tuple[int, int]:
    """Components (k_x, k_y) that `svcca` keeps with the same options."""
    return m.x.components(standardize).count(variance, below), m.y.components(standardize).count(variance, below)


def svcca(m: Moments, *, standardize: bool = True, variance: float = VARIANCE, below: bool = False) -> float:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017, arXiv 1706.05806).

    Of each side the fewest whose summed share of the variance reaches `variance` or, with `below`, as the code of Wu
    et al. 2020 does, the most that stay below it: one fewer, which moves the value in the third digit.
    """
    k_x, k_y = svcca_ranks(m, standardize=standardize, variance=variance, below=below)
    if standardize:
        leading = m.whitened[:k_x, :k_y]
    else:
        x, y = m.x.components(standardize), m.y.components(standardize)
        left, right = x.whitener[:, :k_x].to(m.dtype), y.whitener[:, :k_y].to(m.dtype)
        leading = multiply(multiply(left.T, m.covariance.to(m.dtype)), right)
    return min(float(_singular_values(leading).mean()), 1.0)


def pwcca(m: Moments, *, standardize: bool = True) -> float:
    """Mean canonical correlation, weighted by how much of x each accounts for (Morcos et al. 2018, arXiv 1806.05759).

    ``sum_i a_i rho_i / sum_i a_i`` with ``a_i = sum_j |<h_i, x_j>|``, h_i the orthonormal canonical variates of x and
    x_j its centred neurons, z-scored with `standardize`.
    """
    left, rho, _ = m.canonical
    x = m.x.components()
    loadings = multiply(left.T * x.variance.sqrt().to(left), x.directions.T.to(left))  # <h_i, x_j>, x_j of length 1
    weights = (loadings if standardize else loadings * m.x.scale).abs().sum(1, dtype=torch.float64)
    return float((weights * rho).sum() / weights.sum())


def linear_cka_biased(m: Moments, *, standardize: bool = True) -> float:
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414); too high where neurons are many against frames.

    ``||Y'X||^2 / (||X'X|| ||Y'Y||)`` of centred data.
    """
    cross, norm_x, norm_y = _second_moments(m, standardize)
    return float(cross.norm() ** 2 / (norm_x * norm_y))


def linear_cka_dropped(m: Moments, *, drop: int = DROPPED) -> float:
    """Linear CKA of the neurons in their own units, biased, without the 3 of largest variance on each side.

    Beside the raw and the standardised score it tells whether few neurons, `drop` of each side, make the difference.
    """
    x, y = (side.scale.argsort(descending=True)[min(drop, len(side.scale) - 1) :] for side in (m.x, m.y))
    norm_x, norm_y = m.x.covariance[x][:, x].norm(), m.y.covariance[y][:, y].norm()
    return float(m.covariance[x][:, y].norm() ** 2 / (norm_x * norm_y))


def linear_cka_debiased(m: Moments, norms_x: Tensor, norms_y: Tensor, *, standardize: bool = True) -> float:
    """Linear CKA from the unbiased HSIC of Song et al. 2012: 0 on average for unrelated layers, or slightly below.

    `norms_x` and `norms_y` are `squared_norms` of the frames of each side, (n_frames,), with the same `standardize`.
    """
    if m.x.n < 4:
        raise SslsimError(f"debiased CKA needs at least 4 frames, got {m.x.n}; give more or use linear_cka_biased")
    cross, norm_x, norm_y = _second_moments(m, standardize)
    xy = _unbiased_hsic(cross.norm(), norms_x, norms_y)
    return float(xy / (_unbiased_hsic(norm_x, norms_x, norms_x) * _unbiased_hsic(norm_y, norms_y, norms_y)).sqrt())


def procrustes(m: Moments, *, standardize: bool = True) -> float:
    """Cosine of the angular Procrustes distance: what one rotation aligns (Williams et al. 2021, arXiv 2110.14739).

    ``nuclear(Y'X) / (||X|| ||Y||)`` of centred data.
    """
    # float64: among the singular values of a covariance the small are many, and their sum counts
    if standardize:
        return float(_singular_values(m.correlation).sum() / (len(m.x.scale) * len(m.y.scale)) ** 0.5)
    return float(_singular_values(m.covariance).sum() / (m.x.scale.norm() * m.y.scale.norm()))


def _second_moments(m: Moments, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Cross moments and the norms of those of each side, neurons of length 1 or in their own units."""
    if standardize:
        return m.correlation, m.x.correlation_norm, m.y.correlation_norm
    return m.covariance, m.x.covariance_norm, m.y.covariance_norm


def _singular_values(a: Tensor) -> Tensor:
    """Singular values by the eigenvalues of the smaller Gram matrix: half the time of a decomposition of `a` itself."""
    gram = multiply(a, a.T) if a.shape[0] <= a.shape[1] else multiply(a.T, a)
    return torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()


def _unbiased_hsic(cross: Tensor, norms_x: Tensor, norms_y: Tensor) -> Tensor:
    """HSIC_1 of linear kernels, without their diagonals, up to the factor 1 / (n (n - 3)) that cancels in CKA."""
    n = len(norms_x)
    return cross**2 - n / (n - 2) * norms_x @ norms_y + norms_x.sum() * norms_y.sum() / ((n - 1) * (n - 2))
