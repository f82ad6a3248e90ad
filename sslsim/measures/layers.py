"""Layer measures: do two layers span the same subspace, or have the same geometry?

All are functions of the `Moments` of two layers, or of many pairs. ``standardize=True`` z-scores every neuron first,
``False`` keeps its units; the two differ when few neurons hold most of the variance.
"""

from typing import Any

import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.components import singular_values
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.products import product

VARIANCE = 0.99  # share of the variance that SVCCA keeps
DROPPED = 3  # neurons of largest variance that linear_cka_dropped leaves out


def cca(m: Moments) -> Tensor:
    """Mean canonical correlation.

    Over min(k_x, k_y) pairs; k is the rank: fewer than neurons vary if some are linearly dependent or frames are few.
    """
    return m.canonical[1].sum(-1) / torch.minimum(m.x.components.rank, m.y.components.rank)


def svcca_ranks(side: Marginal, *, standardize: bool = True, variance: float = VARIANCE, below: bool = False) -> Tensor:
    """Components of each layer that `svcca` keeps with the same options."""
    return (side.components if standardize else side.components_raw).count(variance, below)


def svcca(m: Moments, *, standardize: bool = True, variance: float = VARIANCE, below: bool = False) -> Tensor:
    """Mean canonical correlation of the leading principal components (Raghu et al. 2017, arXiv 1706.05806).

    Of each side the fewest whose summed share of the variance reaches `variance` or, with `below`, as the code of Wu
    et al. 2020 does, the most that stay below it: one fewer, which moves the value in the third digit.
    """
    options: Any = {"standardize": standardize, "variance": variance, "below": below}
    k_x, k_y = (svcca_ranks(side, **options) for side in (m.x, m.y))
    if standardize:
        leading = m.whitened
    else:
        left, right = (side.components_raw.whitener.to(m.dtype) for side in (m.x, m.y))
        left, right = left[..., : int(k_x.max())], right[..., : int(k_y.max())]
        leading = product(product(left.mT, m.covariance.to(m.dtype)), right)
    leading = leading[..., : int(k_x.max()), : int(k_y.max())]
    sizes = zip(leading.shape[-2:], (k_x, k_y), strict=True)
    rows, columns = (torch.arange(size, device=leading.device) < k[..., None] for size, k in sizes)
    most = torch.minimum(k_x, k_y)
    values = singular_values(leading * rows[..., :, None] * columns[..., None, :], most)
    return (values.sum(-1, dtype=torch.float64) / most).clamp(max=1.0)


def pwcca(m: Moments, *, standardize: bool = True) -> Tensor:
    """Mean canonical correlation, weighted by how much of x each accounts for (Morcos et al. 2018, arXiv 1806.05759).

    ``sum_i a_i rho_i / sum_i a_i`` with ``a_i = sum_j |<h_i, x_j>|``, h_i the orthonormal canonical variates of x and
    x_j its centred neurons, z-scored with `standardize`.
    """
    left, rho, _ = m.canonical
    x = m.x.components
    scaled = left.mT * x.variance.sqrt()[..., None, :].to(left)
    loadings = product(scaled, x.directions.mT.to(left))  # <h_i, x_j>, |x_j| = 1
    weights = (loadings if standardize else loadings * m.x.scale[..., None, :]).abs().sum(-1, dtype=torch.float64)
    weights = torch.where(rho > 0, weights, 0.0)
    return (weights * rho).sum(-1) / weights.sum(-1)


def linear_cka_biased(m: Moments, *, standardize: bool = True) -> Tensor:
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414); too high where neurons are many against frames.

    ``||Y'X||^2 / (||X'X|| ||Y'Y||)`` of centred data.
    """
    cross, norm_x, norm_y = _second_moments(m, standardize)
    return cross / (norm_x * norm_y)


def linear_cka_dropped(m: Moments, *, drop: int = DROPPED) -> Tensor:
    """Linear CKA of the neurons in their own units, biased, without the 3 of largest variance on each side.

    Beside the raw and the standardised score it tells whether few neurons, `drop` of each side, make the difference.
    """
    kept, norms = [], []
    for side in (m.x, m.y):
        ranked = side.scale.argsort(dim=-1, descending=True).argsort(dim=-1)
        kept.append((ranked >= torch.minimum(side.count - 1, side.count.new_tensor(drop))[..., None]).double())
        norms.append(_norm(side.covariance * kept[-1][..., :, None] * kept[-1][..., None, :]))
    cross = _norm(m.covariance * kept[0][..., :, None] * kept[1][..., None, :])
    return cross.square() / (norms[0] * norms[1])


def linear_cka_debiased(m: Moments, norms_x: Tensor, norms_y: Tensor, *, standardize: bool = True) -> Tensor:
    """Linear CKA from the unbiased HSIC of Song et al. 2012: 0 on average for unrelated layers, or slightly below.

    `norms_x` and `norms_y` (..., n_frames) are `squared_norms` of each side with the same `standardize`.
    """
    if m.x.n < 4:
        raise SslsimError(f"debiased CKA needs at least 4 frames, got {m.x.n}; give more or use linear_cka_biased")
    cross, norm_x, norm_y = _second_moments(m, standardize)
    xy = _unbiased_hsic(cross, norms_x, norms_y)
    xx, yy = (_unbiased_hsic(norm.square(), n, n) for norm, n in ((norm_x, norms_x), (norm_y, norms_y)))
    return xy / (xx * yy).sqrt()


def procrustes(m: Moments, *, standardize: bool = True) -> Tensor:
    """Cosine of the angular Procrustes distance: what one rotation aligns (Williams et al. 2021, arXiv 2110.14739).

    ``nuclear(Y'X) / (||X|| ||Y||)`` of centred data.
    """
    # float64: among the singular values of a covariance the small are many, and their sum counts
    most = torch.minimum(m.x.count, m.y.count)
    if standardize:
        cross, size = m.correlation.double(), (m.x.count * m.y.count).sqrt()
    else:
        cross, size = m.covariance, m.x.scale.norm(dim=-1) * m.y.scale.norm(dim=-1)
    return singular_values(cross, most).sum(-1) / size


def _second_moments(m: Moments, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Square of the norm of the cross moments, and the norms of those of each side; in length 1 or in own units."""
    if standardize:
        return _norm(m.correlation).square(), m.x.correlation_norm, m.y.correlation_norm
    return _norm(m.covariance).square(), m.x.covariance_norm, m.y.covariance_norm


def _norm(a: Tensor) -> Tensor:
    return a.square().sum((-2, -1), dtype=torch.float64).sqrt()


def _unbiased_hsic(cross: Tensor, norms_x: Tensor, norms_y: Tensor) -> Tensor:
    """HSIC_1 of linear kernels, without their diagonals, up to the factor 1 / (n (n - 3)) that cancels in CKA."""
    n = norms_x.shape[-1]
    both, alone = (norms_x * norms_y).sum(-1), norms_x.sum(-1) * norms_y.sum(-1)
    return cross - n / (n - 2) * both + alone / ((n - 1) * (n - 2))
