"""Memorisation of training images: samples should not be nearer to training images than test images are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.neighbours import nearest

NEAR = 0.01  # The limit for near copies is this quantile of the test images' distances to training images.


@dataclass(frozen=True)
class Memorisation:
    """Nearest real images of N samples, compared with those of M test images.

    distances: (N,) to the nearest training image, root mean square over dimensions. test_distances: (M,) the same for
    test images. nearest: (N,) index of the nearest training image. near_copy: (N,) whether the distance is within the
    limit, the 1 % quantile of test_distances. test_near_copies: the share of test images within the limit: 1 %, or more
    if test images are copies of training images. nearer_to_train: (N,) whether the nearest real image is a training
    image. expected: the share of nearer_to_train if nothing is copied.
    """

    distances: Tensor
    test_distances: Tensor
    nearest: Tensor
    near_copy: Tensor
    test_near_copies: float
    nearer_to_train: Tensor
    expected: float


def memorisation(samples: Tensor, train: Tensor, test: Tensor, test_squares: Tensor | None = None) -> Memorisation:
    """Compare samples (N, D) with the training points and the test points (M, D).

    test_squares: (M,), the squared distance of each test point to its nearest training point, if it is known.
    """
    if test_squares is None:
        test_squares = nearest(test, train).squares
    size = samples.shape[1]
    to_train, to_test = nearest(samples, train), nearest(samples, test)
    limit = torch.quantile(test_squares, NEAR)
    return Memorisation(
        distances=(to_train.squares / size).sqrt(),
        test_distances=(test_squares / size).sqrt(),
        nearest=to_train.columns,
        near_copy=to_train.squares <= limit,
        test_near_copies=(test_squares <= limit).double().mean().item(),
        nearer_to_train=to_train.squares < to_test.squares,
        expected=len(train) / (len(train) + len(test)),
    )
