"""Denoising networks, found by name. A module with a subclass of Network is a network (unet.py -> UNet).

A network maps noisy images, times and labels to an output of the images' shape. The prediction defines its meaning.
"""

from torch import nn


class Network(nn.Module):
    """Base class of the denoising networks: built as `Class(shape, classes, **options)`, called as (noisy, t, label).

    shape: (C, H, W) of one encoded example. classes: 0 for unlabelled data.
    """
