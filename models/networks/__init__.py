"""Denoising networks, found by name. A module with a subclass of Network is a network (unet.py -> UNet).

A network maps noisy images, times and labels to an output of the images' shape. The denoiser's prediction defines
what the output means, e.g. the noise.
"""

from torch import nn


class Network(nn.Module):
    """Base class of the networks: built as `Class(shape, classes, **options)`, called as `network(noisy, t, label)`.

    shape: (C, H, W) of one encoded example. classes: number of classes, 0 for unlabelled data.
    """
