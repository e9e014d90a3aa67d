"""Contrastive losses on normalised embeddings: SimCLR, SupCon in four forms, MoCo's InfoNCE, and GradMix's mix term.

Papers: Chen et al., A Simple Framework for Contrastive Learning (arXiv 2002.05709); Khosla et al., Supervised
Contrastive Learning (arXiv 2004.11362); He et al., Momentum Contrast (arXiv 1911.05722); Informed Mixing (arXiv
2505.12803), Eq 1-3 and 8. Repositories: HobbitLong/SupContrast@66a8fe5, gawainxu/comprehensive_osr@d18b920.

Deviations:
1. No loss is multiplied by temperature / base_temperature here; the caller does it where wanted.
2. `clean_all` has the value its formula says. The repository subtracts two different row maxima from numerator and
   denominator, which shifts the printed value and leaves the gradient as it is here.

Shapes: N images, two views each, D dimensions. Embeddings z (2N, D) are unit vectors, all first views before all second
ones; row a's other view a+ is row a + N modulo 2N. tau is the temperature.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SupConForm = Literal["out", "eq2", "eq2_pos", "in"]
MixForm = Literal["infonce", "clean_all", "mixed_batch"]

NOTHING = -1e9
"""Logit of what is left out of a sum of exponentials: exp(NOTHING - x) is 0, and unlike -inf it has no NaN gradient."""


def simclr_anchors(z_BD: Tensor, tau: float) -> Tensor:
    """Eq 1 for each anchor (2N,): -s(a, a+)/tau + log sum over k != a of exp(s(a, k)/tau)."""
    logits_BB = z_BD @ z_BD.T / tau
    positives_B = logits_BB.diagonal(len(z_BD) // 2)
    return _log_sum_of_others(logits_BB) - torch.cat([positives_B, positives_B])


def simclr(z_BD: Tensor, tau: float) -> Tensor:
    """L_simclr, Eq 1: the mean over all 2N anchors."""
    return simclr_anchors(z_BD, tau).mean()


def supcon_anchors(z_BD: Tensor, labels_N: Tensor, tau: float) -> Tensor:
    """L_out of SupCon for each anchor (2N,): the mean over its positives of -s(a, p)/tau + log sum over k != a."""
    logits_BB = z_BD @ z_BD.T / tau
    positives_BB = _positives(labels_N)
    return _log_sum_of_others(logits_BB) - _mean_where(logits_BB, positives_BB)


def supcon(z_BD: Tensor, labels_N: Tensor, tau: float, form: SupConForm = "out") -> Tensor:
    """L_supcon: the mean over anchors a, positives p of the same label (the other view is always one).

    Args:
        z_BD: embeddings.
        labels_N: class of each image.
        tau: temperature.
        form: 'out', the mean over p outside the logarithm, all k != a in the denominator; 'in', the mean over p inside;
            'eq2', the paper's Eq 2 as printed, only k of other labels in the denominator (can be negative; anchors
            without such k are left out, and a batch of one class gives 0); 'eq2_pos', those k and p itself.
    """
    if form == "out":
        return supcon_anchors(z_BD, labels_N, tau).mean()
    logits_BB = z_BD @ z_BD.T / tau
    positives_BB = _positives(labels_N)
    if form == "in":
        log_sum_B = logits_BB.masked_fill(~positives_BB, NOTHING).logsumexp(1)
        return (_log_sum_of_others(logits_BB) - log_sum_B + positives_BB.sum(1).to(log_sum_B.dtype).log()).mean()
    negatives_BB = _other_label(labels_N)
    log_negatives_B = logits_BB.masked_fill(~negatives_BB, NOTHING).logsumexp(1)
    if form == "eq2_pos":
        return _mean_where(_against(log_negatives_B.unsqueeze(1), logits_BB), positives_BB).mean()
    defined_B = negatives_BB.any(1)
    anchors_B = torch.where(defined_B, log_negatives_B - _mean_where(logits_BB, positives_BB), 0)
    return anchors_B.sum() / defined_B.sum().clamp(min=1)


def mix(z_BD: Tensor, mixed_BD: Tensor, tau: float, form: MixForm = "infonce") -> Tensor:
    """L_mix for each mixed sample (2N,); its mean is L_mix of Eq 8. Gradients flow through both arguments.

    Args:
        z_BD: embeddings of the clean views.
        mixed_BD: embeddings of the mixed views, in the same order.
        tau: temperature.
        form: the clean anchor a pulls the mixed a+. 'infonce': against that positive and the clean views of other
            images; 'clean_all': against all clean k != a, a's own clean partner among them and the positive not;
            'mixed_batch': ordinary L_simclr of (mixed first, clean second) and of (clean first, mixed second) views.
    """
    count = len(z_BD) // 2
    if form == "mixed_batch":
        return _mixed_batch(z_BD, mixed_BD, lambda batch_BD: simclr_anchors(batch_BD, tau))
    partner_BD = z_BD.roll(count, 0)
    positives_B = (partner_BD * mixed_BD).sum(1) / tau
    logits_BB = z_BD @ z_BD.T / tau
    if form == "clean_all":
        return _log_sum_of_others(logits_BB).roll(count) - positives_B
    images_N = torch.arange(count, device=z_BD.device)
    log_negatives_B = logits_BB.masked_fill(~_other_label(images_N), NOTHING).logsumexp(1)
    return _against(log_negatives_B.roll(count), positives_B)


def mix_supcon(
    z_BD: Tensor, mixed_BD: Tensor, labels_N: Tensor, weights_B: Tensor, tau: float, form: MixForm = "infonce"
) -> Tensor:
    """The mix term for SupCon: `mix` with all mixed views of the anchor's class, but its own, as positives; weighted.

    Arguments as there, and weights_B of each mixed view. Where all labels differ it is (weights_B * mix(...)).mean().
    """
    if form == "mixed_batch":
        return (weights_B * _mixed_batch(z_BD, mixed_BD, lambda b_BD: supcon_anchors(b_BD, labels_N, tau))).mean()
    logits_BB = z_BD @ z_BD.T / tau
    positives_BB = _positives(labels_N)
    mixed_logits_BB = z_BD @ mixed_BD.T / tau
    if form == "clean_all":
        pairs_BB = _log_sum_of_others(logits_BB).unsqueeze(1) - mixed_logits_BB
    else:
        log_negatives_B = logits_BB.masked_fill(~_other_label(labels_N), NOTHING).logsumexp(1)
        pairs_BB = _against(log_negatives_B.unsqueeze(1), mixed_logits_BB)
    return _mean_where(pairs_BB * weights_B, positives_BB).mean()


def infonce(query_ND: Tensor, key_ND: Tensor, queue_KD: Tensor, tau: float) -> Tensor:
    """MoCo's loss for each query (N,): against its key and a queue of K earlier keys."""
    positives_N1 = (query_ND * key_ND).sum(1, keepdim=True)
    logits = torch.cat([positives_N1, query_ND @ queue_KD.T], 1) / tau
    return logits.logsumexp(1) - logits[:, 0]


def _log_sum_of_others(logits_BB: Tensor) -> Tensor:
    itself_BB = torch.eye(len(logits_BB), dtype=torch.bool, device=logits_BB.device)
    return logits_BB.masked_fill(itself_BB, NOTHING).logsumexp(1)


def _against(log_negatives: Tensor, positive: Tensor) -> Tensor:
    """-log of the positive's share: log(exp(log_negatives) + exp(positive)) - positive."""
    return F.softplus(log_negatives - positive, threshold=40)  # above 40 it is the identity, to double precision


def _positives(labels_N: Tensor) -> Tensor:
    labels_B = torch.cat([labels_N, labels_N])
    same_BB = labels_B.unsqueeze(1) == labels_B
    return same_BB.fill_diagonal_(False)


def _other_label(labels_N: Tensor) -> Tensor:
    labels_B = torch.cat([labels_N, labels_N])
    return labels_B.unsqueeze(1) != labels_B


def _mean_where(values_BB: Tensor, mask_BB: Tensor) -> Tensor:
    return torch.where(mask_BB, values_BB, 0).sum(1) / mask_BB.sum(1)


def _mixed_batch(z_BD: Tensor, mixed_BD: Tensor, anchors: Callable[[Tensor], Tensor]) -> Tensor:
    """Per mixed sample: the mean of its image's two anchors in the batch where only its view is mixed."""
    first_ND, second_ND = z_BD.chunk(2)
    mixed_first_ND, mixed_second_ND = mixed_BD.chunk(2)
    batches = (torch.cat([mixed_first_ND, second_ND]), torch.cat([first_ND, mixed_second_ND]))
    return torch.cat([anchors(batch_BD).view(2, -1).mean(0) for batch_BD in batches])
