"""Hold the training forward equal to transformers: `python check.py`."""

import fast
import losses
import torch
from zoo import build, encoder_of


def compare(family: str, size: str, seconds: float = 2.0) -> dict[str, float]:
    """Return the largest relative difference of features, output and (wav2vec 2.0) loss."""
    torch.manual_seed(0)
    model = build(family, size).eval()
    encoder = encoder_of(model)
    wave = torch.randn(3, fast.samples_for(fast.frames_in(int(seconds * 16000))))
    extracted = fast.features(encoder, wave)
    theirs = encoder.feature_extractor(wave).transpose(1, 2)
    mask = losses.span_mask(*extracted.shape[:2])
    projected, _ = fast.project(encoder, extracted)
    ours = fast.encode(encoder, projected, mask)
    out = encoder(wave, mask_time_indices=mask).last_hidden_state
    result = {"features": _gap(extracted, theirs), "output": _gap(ours, out)}
    if family == "wav2vec2":
        result["loss"] = _loss_gap(model, wave, mask)
    return result


def _loss_gap(model: torch.nn.Module, wave: torch.Tensor, mask: torch.Tensor) -> float:
    negatives = losses.sample_negatives(mask)
    mine = losses.wav2vec2(model, wave, mask, negatives)["loss"] * mask.sum()
    flat = negatives + torch.arange(len(wave))[:, None, None] * mask.shape[1]
    flat[~mask] = 0
    theirs = model(wave, mask_time_indices=mask, sampled_negative_indices=flat).loss
    return float(abs(mine - theirs) / abs(theirs))


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


if __name__ == "__main__":
    with torch.no_grad():
        for family in ("wav2vec2", "hubert"):
            for size in ("small", "large"):
                gaps = compare(family, size)
                print(family, size, {k: f"{v:.1e}" for k, v in gaps.items()})
                assert max(gaps.values()) < 1e-5
