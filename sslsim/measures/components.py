"""Principal components of a layer, and singular vectors of what two layers' components have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.arrays import multiply


@dataclass(frozen=True)
class Components:
    """Eigendecomposition of a covariance."""

    variance: Tensor  # eigenvalues (k,), largest first, float64
    directions: Tensor  # eigenvectors (n_varying, k), in the dtype of the marginal

    @classmethod
    def of(cls, covariance: Tensor, eps: float, dtype: torch.dtype = torch.float64) -> Components:
        """Decompose, dropping directions that hold no more than rounding noise.

        Rounding puts an error of about `eps` times the mean variance on each entry, a noise matrix whose
        eigenvalues reach 2 sqrt(d) times that; the solver adds d float64 units of the largest.
        """
        variance, directions = torch.linalg.eigh(covariance)
        variance, directions = variance.flip(0), directions.flip(1)
        d, double = len(variance), torch.finfo(torch.float64).eps
        floor = 10 * eps * d**0.5 * variance.mean() + 4 * d * double * variance[0]
        kept = int((variance > floor).sum())
        return cls(variance[:kept], directions[:, :kept].to(dtype))

    @property
    def whitener(self) -> Tensor:
        """Matrix (n_varying, k) that takes centred neurons to orthonormal columns."""
        return self.directions * self.variance.rsqrt().to(self.directions)

    def count(self, fraction: float, below: bool = False) -> int:
        """Return the fewest components whose summed variance reaches `fraction`, or the most that stay below it."""
        if not 0 < fraction <= 1:
            raise SslsimError(f"variance is {fraction}; give the share of the variance to keep, above 0 and up to 1")
        less = int((self.variance.cumsum(0) / self.variance.sum() < fraction - 1e-12).sum())
        return max(less, 1) if below else min(less + 1, len(self.variance))


def singular_vectors(matrices: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Left vectors (p, k), values (k,), largest first, and right vectors (q, k) of matrices of norm near 1.

    From the eigenvectors u of the smaller ``a a'``, of all matrices of one size at once: half the time of an SVD.
    Values are ``|a'u|`` and right vectors ``a'u / |a'u|``, exact but for small values, whose squares are lost in
    rounding: the images of those u, less what of them lies along the others, get a small SVD of their own.
    """
    wide = [a if a.shape[0] <= a.shape[1] else a.T for a in matrices]
    vectors_of: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for kind in dict.fromkeys((len(a), a.dtype) for a in wide):
        alike = [n for n, a in enumerate(wide) if (len(a), a.dtype) == kind]
        vectors = torch.linalg.eigh(torch.stack([multiply(wide[n], wide[n].T) for n in alike]))[1]
        for n, left in zip(alike, vectors, strict=True):
            triple = _from_left(wide[n], left.flip(1))
            vectors_of[n] = triple if wide[n] is matrices[n] else triple[::-1]
    return [vectors_of[n] for n in range(len(matrices))]


def _from_left(a: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors of `a` from the eigenvectors of ``a a'``."""
    images = multiply(left.T, a)
    values = images.norm(dim=1)
    right = images / values[:, None].clamp(min=torch.finfo(a.dtype).tiny)
    # an eigenvector is off by eps along another, its image by eps / value: at the root of eps they are alike
    small = values < 30 * torch.finfo(a.dtype).eps ** 0.5
    if small.any():
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
    return left, values, right.T
