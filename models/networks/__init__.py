"""The networks: every module here that exposes a class of its own name (unet.py -> UNet) is one, found by that name.

A network is built as `Class(shape, classes, **options)` and called as `network(noisy, t, label)`. What its output means
is the prediction's business, and its training the loop's.
"""

from torch import nn


class Network(nn.Module):
    """Base class of the denoising networks."""
