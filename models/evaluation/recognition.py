"""Measures of a classifier's output for generated images: recognised classes and diversity."""

import torch
from torch import Tensor
from torch.nn import functional as F


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Return the share of predictions (N,) that equal the labels (N,)."""
    # torchmetrics computes the accuracy in float32, which is too coarse to verify a stored value.
    return (predictions == labels).double().mean().item()


def confusion_counts(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Return int64 (classes, classes): how many images of each label (row) got each prediction (column)."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # Importing it takes seconds.

    if classes == 1:  # torchmetrics requires two classes.
        return torch.tensor([[len(labels)]])
    return multiclass_confusion_matrix(predictions, labels, classes)


def histogram_distance(predictions: Tensor, labels: Tensor, classes: int) -> float:
    """Return the total variation distance between the class shares of two sets: 0 if equal, 1 if disjoint."""
    one, other = (torch.bincount(part, minlength=classes).double() / len(part) for part in (predictions, labels))
    return (one - other).abs().sum().item() / 2


def diversity(features: Tensor, labels: Tensor) -> float:
    """Return the mean distance between two images of one class, averaged over classes; NaN if no class has two images.

    features: (N, D). They are scaled to length 1, because images of exaggerated contrast have longer features.
    """
    features = F.normalize(features.double())
    groups = [features[labels == label] for label in labels.unique()]
    means = [torch.pdist(group).mean() for group in groups if len(group) > 1]
    return torch.stack(means).mean().item() if means else float("nan")


def inception_score(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the Inception Score in each resample, (draws,), between 1 and K (Salimans et al. 2016, section 4).

    logits: (N, K). counts: (draws, N), as from `resampled_counts`. Published code averages over ten parts of the
    images; this function does not.
    """
    log_shares = logits.double().log_softmax(1)
    weights = counts / counts.sum(1, keepdim=True)
    marginal = weights @ log_shares.exp()
    negative_entropy = weights @ (log_shares.exp() * log_shares).sum(1)
    return (negative_entropy - torch.special.xlogy(marginal, marginal).sum(1)).exp()
