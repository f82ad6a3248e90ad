"""Masks and the losses of the two families."""

import torch
import torch.nn.functional as F
from fast import encode, features, project
from torch import Tensor, nn
from zoo import NEGATIVES


def span_mask(batch: int, frames: int, starts: float = 0.065, length: int = 10) -> Tensor:
    """Return a boolean mask (batch, frames): spans start anywhere with probability `starts`."""
    begins = torch.rand(batch, frames) < starts
    begins[torch.arange(batch), torch.randint(frames - length, (batch,))] = True
    spread = F.max_pool1d(F.pad(begins.float(), (length - 1, 0)), length, 1)
    return spread > 0


def sample_negatives(masked: Tensor, count: int = NEGATIVES) -> Tensor:
    """Return (batch, frames, count) frame numbers: other masked frames of the same utterance."""
    total = masked.sum(1, keepdim=True)
    order = torch.argsort((~masked).to(torch.int8), dim=1, stable=True)  # the masked frames first
    rank = torch.cumsum(masked, 1) - 1
    draw = (torch.rand(*masked.shape, count) * (total - 1)[:, :, None]).long()
    draw = draw + (draw >= rank[:, :, None])
    return torch.gather(order[:, :, None].expand(-1, -1, count), 1, draw.clamp(max=masked.shape[1] - 1))


def contrastive(
    context: Tensor, target: Tensor, masked: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the summed loss and the number right; every cosine comes from one matrix."""
    cosine = F.normalize(context, dim=-1) @ F.normalize(target, dim=-1).transpose(1, 2)
    own = torch.diagonal(cosine, dim1=1, dim2=2)[:, :, None]
    others = torch.gather(cosine, 2, negatives)
    with torch.no_grad():  # a negative equal to the target is no negative
        codes = target.detach()[:, :, :8]  # enough to tell two targets apart
        picked = codes[torch.arange(len(codes))[:, None, None], negatives]
        same = (picked == codes[:, :, None]).all(-1)
    logits = torch.cat([own, others.masked_fill(same, -torch.inf)], 2)[masked] / temperature
    zeros = torch.zeros(len(logits), dtype=torch.long)
    right = (logits[:, 1:].amax(1) < logits[:, 0]).sum()
    return F.cross_entropy(logits, zeros, reduction="sum"), right


def quantise(quantizer: nn.Module, normed: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Return codevectors (batch, frames, channels) and the perplexity of the masked frames' codes.

    The model's own quantiser multiplies every codevector by its weight and sums; the
    same sum as one matrix product a group takes a tenth of the time.
    """
    groups, codes = quantizer.num_groups, quantizer.num_vars
    scores = quantizer.weight_proj(normed).unflatten(-1, (groups, codes))
    if quantizer.training:
        picks = F.gumbel_softmax(scores.float(), tau=quantizer.temperature, hard=True)
        usage = scores.softmax(-1)[masked].mean(0)
    else:
        picks = F.one_hot(scores.argmax(-1), codes).to(scores.dtype)
        usage = picks[masked].mean(0)
    perplexity = torch.exp(-torch.sum(usage * torch.log(usage + 1e-7), -1)).sum()
    book = quantizer.codevectors.view(groups, codes, -1)
    return torch.einsum("btgc,gcd->btgd", picks, book).flatten(2), perplexity


def wav2vec2(
    model: nn.Module, wave: Tensor, masked: Tensor, negatives: Tensor, visible_share: float = 0.0
) -> dict[str, Tensor]:
    """Return loss (a mean over masked frames), accuracy and codebook perplexity.

    `visible_share` adds that much of the same loss on the unmasked frames, with
    negatives of their own. It is for the start of training only; 0 is wav2vec 2.0.
    """
    encoder, config = model.wav2vec2, model.config
    projected, normed = project(encoder, features(encoder, wave))
    context = model.project_hid(encode(encoder, projected, masked))
    quantised, perplexity = quantise(model.quantizer, normed, masked)
    target, count = model.project_q(quantised), masked.sum()
    loss, right = contrastive(context, target, masked, negatives, config.contrastive_logits_temperature)
    if visible_share:
        easy, _ = contrastive(
            context, target, ~masked, sample_negatives(~masked), config.contrastive_logits_temperature
        )
        loss = loss + visible_share * easy * count / (~masked).sum()
    codes = config.num_codevectors_per_group * config.num_codevector_groups
    diversity = (codes - perplexity) / codes * count
    total = loss + config.diversity_loss_weight * diversity
    return {"loss": total / count, "accuracy": right / count, "perplexity": perplexity}


def hubert(model: nn.Module, wave: Tensor, masked: Tensor, units: Tensor, head: nn.Module) -> dict[str, Tensor]:
    """Return masked plus half the unmasked cross-entropy, and both accuracies."""
    projected, _ = project(model, features(model, wave))
    scores = head(encode(model, projected, masked))
    right = scores.argmax(-1) == units
    loss = F.cross_entropy(scores[masked], units[masked]) + 0.5 * F.cross_entropy(scores[~masked], units[~masked])
    return {"loss": loss, "accuracy": right[masked].float().mean(), "unmasked": right[~masked].float().mean()}
