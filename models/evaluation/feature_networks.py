"""Two small classification networks whose features are used to compare images. Image sides must be at least 4.

Both halve the resolution early, so that a CPU processes a hundred thousand images within minutes. If a result holds
with only one of the two networks, it describes the network more than the images.
"""

from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 16  # If a side is longer, the first convolution halves the resolution.


def _first_stride(shape: tuple[int, int, int]) -> int:
    return 2 if max(shape[1:]) > LARGE else 1


class ConvNet(nn.Module):
    """Convolutions with batch normalisation (Simonyan & Zisserman 2015), then the mean over all positions."""

    features = 128

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            *_layer(shape[0], width, 5, _first_stride(shape)),
            *_layer(width, width, 3),
            *_layer(width, 2 * width, 3, 2),
            *_layer(2 * width, 2 * width, 3),
            *_layer(2 * width, self.features, 3),
        )
        self.verdict = nn.Linear(self.features, classes)

    def forward(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 128) and logits (N, classes) of images (N, C, H, W) in [-1, 1]."""
        features = self.body(scaled).mean((2, 3))
        return features, self.verdict(features)


def _layer(in_channels: int, out_channels: int, size: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


class ResNet(nn.Module):
    """Residual blocks with normalisation before convolutions (He et al. 2016b), then the mean over all positions."""

    features = 64

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 32):
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 5, _first_stride(shape), padding=2, bias=False)
        self.body = nn.Sequential(
            _Residual(width, width, 1),
            _Residual(width, self.features, 2),
            _Residual(self.features, self.features, 1),
            nn.BatchNorm2d(self.features),
            nn.ReLU(),
        )
        self.verdict = nn.Linear(self.features, classes)

    def forward(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and logits (N, classes) of images (N, C, H, W) in [-1, 1]."""
        features = self.body(self.stem(scaled)).mean((2, 3))
        return features, self.verdict(features)


class _Residual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)])
        self.first = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same_shape = in_channels == out_channels and stride == 1
        self.skip = nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(F.relu(self.norms[0](x)))
        return self.skip(x) + self.second(F.relu(self.norms[1](hidden)))


NETWORKS: dict[str, type[ConvNet] | type[ResNet]] = {"convnet": ConvNet, "resnet": ResNet}
