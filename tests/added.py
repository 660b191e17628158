"""New variants of one file each: a network, a conditioning, a space and a data set."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

import data
from models import networks, spaces
from models.networks import conditioning

ONE_LAYER = '''
from torch import nn
from models.networks import Network
from models.networks.embeddings import Condition

class OneLayer(Network):
    def __init__(self, shape, classes, *, kernel_size: int = 3, conditioning: str = "embedding") -> None:
        """Args:
            kernel_size: side of the convolution.
            conditioning: how the label enters.
        """
        super().__init__()
        self.condition = Condition(conditioning, classes, shape[0], shape)
        self.conv = nn.Conv2d(shape[0], shape[0], kernel_size, padding=kernel_size // 2)

    def forward(self, noisy, t, label=None):
        return self.conv(noisy) + self.condition(t, label)[0][:, :, None, None]
'''
EVERYTHING = """
import torch
from torch import nn
from models.networks.conditioning import Conditioning, Signals

class Everything(Conditioning):
    channels, tokens = 1, 2

    def __init__(self, classes, width, shape):
        super().__init__(classes, width, shape)
        self.table, self.shape = nn.Embedding(classes + 1, width), shape
        self.scales = nn.Parameter(torch.tensor([[1.0], [-1.0]]))

    def forward(self, label):
        rows = self.table(label)
        planes = rows[:, :1, None, None].expand(-1, 1, *self.shape[1:])
        return Signals(vector=rows, planes=planes, tokens=rows[:, None] * self.scales)
"""
FOLDED = '''
from dataclasses import asdict, dataclass
from torch.nn import functional as F
from models.spaces import Fitted, Space
from models.spaces.pixels import Pixels

@dataclass(frozen=True)
class Folded(Space):
    image_shape: tuple
    deviation: float
    seed: int

    bounds = (-1.0, 1.0)
    grey_levels = (-1.0, 1.0)
    needs = ()

    @property
    def shape(self):
        channels, height, width = self.image_shape
        return (channels * self.seed**2, height // self.seed, width // self.seed)

    @classmethod
    def fit(cls, images, flips, around, *, seed: int = 4):
        """Args:
            seed: side of the squares that become channels; named like another flag on purpose.
        """
        pixels = Pixels.measure(images)
        return Fitted(cls(pixels.shape, pixels.deviation, seed), images, None, {}, [f"folded {seed}x{seed}"])

    @classmethod
    def from_facts(cls, facts, locate):
        return cls(tuple(facts["image_shape"]), facts["deviation"], facts["seed"])

    def facts(self):
        return asdict(self)

    def to(self, device):
        return self

    def draw(self, prepared, randomness):
        return self.encode(prepared)

    def encode(self, images):
        return F.pixel_unshuffle(Pixels.scale(images), self.seed)

    def decode(self, clean):
        return Pixels(self.image_shape, self.deviation).decode(F.pixel_shuffle(clean, self.seed))
'''
STRIPES = '''
import numpy as np
from data.images import DataSet, ImageData, make_split

class Stripes(DataSet):
    """Args:
        width: pixels of a side.
    """

    def __init__(self, *, width: int = 12) -> None:
        self.width = width

    def load(self, root):
        ramp = np.arange(self.width, dtype=np.uint8) * 20
        images = np.stack([np.tile(ramp, (self.width, 1)), np.tile(ramp, (self.width, 1)).T] * 16)
        split = make_split(images, np.arange(32) % 2, 2, "stripes")
        return ImageData("stripes", split, split, ("upright", "level"), flips=False)
'''
SOURCES: dict[str, tuple[ModuleType, str]] = {
    "one_layer": (networks, ONE_LAYER),
    "everything": (conditioning, EVERYTHING),
    "folded": (spaces, FOLDED),
    "stripes": (data, STRIPES),
}


def add(
    name: str, folder: Path, patch: pytest.MonkeyPatch, package: ModuleType | None = None, source: str = ""
) -> None:
    """Add one file to a package until the patch is undone: a row of SOURCES, or the given source."""
    if package is None:
        package, source = SOURCES[name]
    added = folder / package.__name__
    added.mkdir(exist_ok=True)
    (added / f"{name}.py").write_text(source, encoding="utf-8")
    patch.setattr(package, "__path__", [*package.__path__, str(added)])
    patch.setitem(sys.modules, f"{package.__name__}.{name}", None)  # type: ignore[arg-type]
    del sys.modules[f"{package.__name__}.{name}"]  # undoing the patch removes the module imported later
    importlib.invalidate_caches()
