"""Principal components of layers, and singular vectors of what two layers' components have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.products import product


@dataclass(frozen=True)
class Components:
    """Eigendecompositions of covariances, of one layer or of many; where k differs the rest is 0."""

    variance: Tensor  # eigenvalues (..., k), largest first, float64
    directions: Tensor  # eigenvectors (..., n_neurons, k), in the dtype of the marginal
    whitener: Tensor  # matrices (..., n_neurons, k) that take centred neurons to orthonormal columns
    rank: Tensor  # how many directions hold more than rounding noise (...)

    @classmethod
    def of(cls, covariance: Tensor, eps: float, count: Tensor, dtype: torch.dtype) -> Components:
        """Decompose covariances (..., d, d), dropping directions that hold no more than rounding noise.

        Rounding puts an error of about `eps` times the mean variance on each entry, a noise matrix whose eigenvalues
        reach 2 sqrt(d) times that; the solver adds d float64 units of the largest. `count` neurons of each vary.
        """
        variance, directions = torch.linalg.eigh(covariance)
        variance, directions = variance.flip(-1), directions.flip(-1)
        double = torch.finfo(torch.float64).eps
        floor = 10 * eps * variance.sum(-1) / count.sqrt() + 4 * count * double * variance[..., 0]
        kept = variance > floor[..., None]
        rank = kept.sum(-1)
        some = slice(0, int(rank.max()))
        variance = torch.where(kept, variance, 0.0)[..., some]
        directions = directions[..., some].to(dtype) * kept[..., None, some]
        scale = torch.where(kept[..., some], variance, torch.inf).rsqrt()
        return cls(variance, directions, directions * scale[..., None, :].to(dtype), rank)

    def __getitem__(self, index: Any) -> Components:
        """Those of some of the layers."""
        return Components(*(value[index] for value in vars(self).values()))

    def count(self, fraction: float, below: bool = False) -> Tensor:
        """Return the fewest components whose summed variance reaches `fraction`, or the most that stay below it."""
        if not 0 < fraction <= 1:
            raise SslsimError(f"variance is {fraction}; give the share of the variance to keep, above 0 and up to 1")
        share = self.variance.cumsum(-1) / self.variance.sum(-1, keepdim=True)
        less = (share < fraction - 1e-12).sum(-1)
        return less.clamp(min=1) if below else torch.minimum(less + 1, self.rank)


def singular_values(a: Tensor, count: Tensor) -> Tensor:
    """Singular values (..., k), smallest first, by the smaller Gram matrix; only the largest `count` (...) are > 0."""
    gram = product(a, a.mT) if a.shape[-2] <= a.shape[-1] else product(a.mT, a)
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    k = values.shape[-1]
    return torch.where(torch.arange(k, device=a.device) >= k - count[..., None], values, 0.0)


def singular_vectors(a: Tensor, *, exact: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors (..., p, k), values (..., k), largest first, right vectors (..., q, k) of matrices of norm near 1.

    From the eigenvectors u of the smaller ``a a'``, of all matrices at once: half the time of an SVD. Values are
    ``|a'u|`` and right vectors ``a'u / |a'u|``, exact but for small values, whose squares are lost in rounding: where
    these must be `exact`, the images of those u, less what of them lies along the others, get a small SVD of their own.
    """
    if a.shape[-2] > a.shape[-1]:
        return singular_vectors(a.mT, exact=exact)[::-1]
    left = torch.linalg.eigh(product(a, a.mT))[1].flip(-1)
    images = product(left.mT, a)
    values = images.norm(dim=-1)
    right = images / values[..., None].clamp(min=torch.finfo(a.dtype).tiny)
    # an eigenvector is off by eps along another, its image by eps / value: at the root of eps they are alike
    small = values < 30 * torch.finfo(a.dtype).eps ** 0.5
    if exact and small.any():
        parts = (part.reshape(-1, *part.shape[small.dim() - 1 :]) for part in (left, images, values, right, small))
        for one in zip(*parts, strict=True):  # parts are views
            if one[-1].any():
                _small_vectors(*one)
    return left, values, right.mT


def _small_vectors(left: Tensor, images: Tensor, values: Tensor, right: Tensor, small: Tensor) -> None:
    """Put right, in their place, the singular vectors of one matrix whose values are `small`."""
    rest, lost = right[~small].double(), images[small].double()
    for _ in range(2):
        lost = lost - (lost @ rest.T) @ rest
    rotation, few, rows = torch.linalg.svd(lost, full_matrices=False)
    none = few < torch.finfo(lost.dtype).eps
    if none.any():  # no image at all: any direction that none of the others has
        known = torch.cat([rest, rows[~none]])
        rows[none] = torch.linalg.qr(known.T, mode="complete")[0].T[len(known) :][: int(none.sum())]
    left[:, small] = left[:, small] @ rotation.to(left)
    values[small], right[small] = few.to(values), rows.to(right)
