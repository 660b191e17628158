"""Does a model repeat its training images? Nearest training images of its samples, beside those of real test images.

A test image is as new as an image can be, so samples should lie no nearer to the training images than test images do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.neighbours import nearest

NEAR = 0.01  # Of the test images lie as near to a training image as what is counted as a near copy.


@dataclass(frozen=True)
class Memorisation:
    """distances, test_distances: (N,) and (M,) to the nearest training image, root mean square over dimensions.

    nearest: which training image that is, for each sample. near_copy: (N,) whether a sample is nearer to it than all
    but one in a hundred test images are to theirs. nearer_to_train: (N,) whether the
    nearest of all real images is a training image; expected: the share of that where nothing is copied.
    """

    distances: Tensor
    test_distances: Tensor
    nearest: Tensor
    near_copy: Tensor
    nearer_to_train: Tensor
    expected: float


def memorisation(samples: Tensor, train: Tensor, test: Tensor) -> Memorisation:
    """Of points (N, D), training points and test points."""
    size = samples.shape[1]
    found, of_test, to_test = nearest(samples, train), nearest(test, train), nearest(samples, test)
    limit = torch.quantile(of_test.squares, NEAR)
    return Memorisation(
        distances=(found.squares / size).sqrt(),
        test_distances=(of_test.squares / size).sqrt(),
        nearest=found.columns,
        near_copy=found.squares < limit,
        nearer_to_train=found.squares < to_test.squares,
        expected=len(train) / (len(train) + len(test)),
    )
