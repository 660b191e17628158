"""What a classifier says of generated images: how many show the class asked for, and how much they differ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def diversity(features: Tensor, labels: Tensor) -> float:
    """The mean distance between two images of one class, over all classes with two or more. features: (N, D).

    Features are brought to length 1: images of exaggerated contrast have longer ones, and are no more diverse for it.
    """
    features = F.normalize(features.double())
    means = []
    for label in labels.unique():
        members = features[labels == label]
        if len(members) > 1:
            means.append(torch.pdist(members).mean())
    return torch.stack(means).mean().item() if means else float("nan")
