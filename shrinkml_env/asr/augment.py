"""SpecAugment, the augmentation of features in training."""

from __future__ import annotations

import torch
from torch import Tensor

from shrinkml_env.asr.features import lengths_mask

__all__ = ["spec_augment"]


def spec_augment(
    features: Tensor, lengths: Tensor, masks: int = 2, widest_band: int = 20, longest_share: float = 0.08
) -> Tensor:
    """Set random frequency bands and time spans of features to 0 (SpecAugment; Park et al. 2019, arXiv 1904.08779).

    It draws from torch's global generator.

    Args:
        features: (batch, frames, channels), of zero mean.
        lengths: Number of frames of each utterance, (batch,).
        masks: Number of frequency masks, and of time masks, for each utterance.
        widest_band: Number of channels in the widest frequency mask.
        longest_share: Length of the longest time mask, as a share of the utterance.
    """
    batch, frames, channels = features.shape
    device = features.device

    def starts_and_ends(size: Tensor, widest: Tensor) -> tuple[Tensor, Tensor]:
        width = (torch.rand(batch, device=device) * (widest.floor() + 1)).floor()
        start = (torch.rand(batch, device=device) * (size - width + 1)).floor()
        return start, start + width

    masked = torch.zeros(batch, frames, channels, dtype=torch.bool, device=device)
    channel, frame = torch.arange(channels, device=device), torch.arange(frames, device=device)
    for _ in range(masks):
        start, end = starts_and_ends(torch.full_like(lengths, channels), torch.full_like(lengths, widest_band))
        masked |= ((channel >= start[:, None]) & (channel < end[:, None]))[:, None, :]
        start, end = starts_and_ends(lengths, longest_share * lengths)
        masked |= ((frame >= start[:, None]) & (frame < end[:, None]))[:, :, None]
    return features.masked_fill(masked & lengths_mask(lengths, frames)[:, :, None], 0.0)
