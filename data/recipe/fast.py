"""The training forward: the model's own parameters, quicker products on a CPU.

The convolutions run channels-last as plain matrix products on views: with stride s,
`s` neighbouring samples are one row, and a kernel longer than the stride adds a
second product on the rows shifted by one. `check.py` holds it equal to transformers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE, FIELD = 320, 400


def frames_in(samples: int) -> int:
    """Return the number of frames of a waveform."""
    return (samples - FIELD) // STRIDE + 1


def samples_for(frames: int) -> int:
    """Return a waveform length with `frames` frames that leaves every layer whole rows."""
    length = frames
    for kernel, stride in ((2, 2), (2, 2), (3, 2), (3, 2), (3, 2), (3, 2), (10, 5)):
        length = length * stride + (stride if kernel > stride else 0)
    return length


def _product(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Convolve x (batch, time, channels) without padding."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    weight = conv.weight.permute(2, 1, 0)  # (kernel, in, out)
    frames = (x.shape[1] - kernel) // stride + 1
    rows = frames + (kernel > stride)
    if x.shape[1] < rows * stride:
        x = F.pad(x, (0, 0, 0, rows * stride - x.shape[1]))
    x = x[:, : rows * stride].reshape(x.shape[0], rows, -1)
    y = x[:, :frames] @ weight[:stride].flatten(0, 1)
    if kernel > stride:
        rest = weight[stride:].flatten(0, 1)
        y = y + x[:, 1:, : rest.shape[0]] @ rest
    return y if conv.bias is None else y + conv.bias


def _normalise(x: Tensor, norm: nn.Module) -> Tensor:
    """Apply the layer's norm channels-last: group norm here is one channel over time."""
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return torch.addcmul(norm.bias - mean * scale, x, scale)


def features(encoder: nn.Module, wave: Tensor) -> Tensor:
    """Return the output of the convolutional stack, (batch, frames, channels)."""
    x = wave[:, :, None]
    for layer in encoder.feature_extractor.conv_layers:
        x = _product(x, layer.conv)
        norm = getattr(layer, "layer_norm", None)
        x = F.gelu(x if norm is None else _normalise(x, norm))
    return x


def project(encoder: nn.Module, extracted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the transformer's input and the normed features that wav2vec 2.0 quantises."""
    projection = encoder.feature_projection
    if getattr(projection, "feat_proj_layer_norm", True):
        extracted = projection.layer_norm(extracted)
    return projection.projection(extracted), extracted


def encode(encoder: nn.Module, projected: Tensor, masked: Tensor | None, real: Tensor | None = None) -> Tensor:
    """Mask frames with the learned vector and run the transformer; `real` marks unpadded frames."""
    if masked is not None:
        projected = torch.where(masked[:, :, None], encoder.masked_spec_embed, projected)
    return encoder.encoder(projected, attention_mask=real)[0]
