"""What a classifier says of generated images: whether they show the class asked for, and how much they differ."""

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


def inception_score(logits: Tensor, counts: Tensor) -> Tensor:
    """(draws,) exp of the mean information that an image's label carries (Salimans et al. 2016 section 4), of logits
    (N, K) in resamples that counts (draws, N) describes. Between 1 and K; one part, not the mean of ten."""
    logs = logits.double().log_softmax(1)
    shares = counts / counts.sum(1, keepdim=True)
    marginal = shares @ logs.exp()
    certain = shares @ (logs.exp() * logs).sum(1)
    return (certain - torch.special.xlogy(marginal, marginal).sum(1)).exp()


def confusion(labels: Tensor, found: Tensor, classes: int) -> Tensor:
    """(classes, classes) how many images of each label (row) were taken for which (column)."""
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    return counts.index_put_((labels, found), torch.ones(len(labels), dtype=torch.int64), accumulate=True)


def histogram_distance(found: Tensor, expected: Tensor, classes: int) -> float:
    """The total variation between the shares of classes of two sets of labels: 0 alike, 1 without a class in common."""
    shares = [torch.bincount(each, minlength=classes).double() / len(each) for each in (found, expected)]
    return (shares[0] - shares[1]).abs().sum().item() / 2
