"""Does a model repeat its training images? Nearest training images of its samples, beside those of real test images.

A test image is as new as an image can be, so samples should lie no nearer to the training images than test images do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.neighbours import Nearest, nearest

NEAR = 0.01  # Of the test images lie as near to a training image as what is counted as a near copy.


@dataclass(frozen=True)
class Memorisation:
    """distances, test_distances: (N,) and (M,) to the nearest training image, root mean square over dimensions.

    nearest: which training image that is, for each sample. near_copy: (N,) whether a sample is nearer to it than all
    but one in a hundred test images are to theirs. nearer_to_train: (N,) 1 where it is nearer to a training image than
    to every test image, among as many of both, 0 where not, 0.5 in a draw.
    """

    distances: Tensor
    test_distances: Tensor
    nearest: Tensor
    near_copy: Tensor
    nearer_to_train: Tensor


def memorisation(samples: Tensor, train: Tensor, test: Tensor, of_test: Nearest | None = None) -> Memorisation:
    """Of points (N, D), training points and test points; of_test: `nearest(test, train)` where it is known."""
    size = samples.shape[1]
    found, of_test = nearest(samples, train), of_test or nearest(test, train)
    # As many training as test images, evenly spread: among six times as many the nearest is nearer by itself.
    rows = torch.linspace(0, len(train) - 1, min(len(test), len(train))).long()
    to_some, to_test = nearest(samples, train[rows]).squares, nearest(samples, test[: len(rows)]).squares
    limit = torch.quantile(of_test.squares, NEAR)
    return Memorisation(
        distances=(found.squares / size).sqrt(),
        test_distances=(of_test.squares / size).sqrt(),
        nearest=found.columns,
        near_copy=found.squares < limit,
        nearer_to_train=(to_some < to_test).double() + (to_some == to_test).double() / 2,
    )
