"""A small classifier of a data set: it says whether a generated image shows the class that it was asked to show.

It is trained on the spot and kept beside the runs, under a name made of the data it has seen. Its own accuracy on
test images belongs beside every figure that it makes. Its last hidden layer is a space of features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from models.files import replacing
from models.randomness import derive_seed
from models.spaces.pixels import Pixels

VERSION = 1  # Of all here that shapes the weights: a kept classifier of another version is not read.
WIDTH, FEATURES = 32, 128
LARGE = 16  # Images with a longer side are halved by the first convolution.
STEPS, PASSES = 1000, 20  # Training ends after the first of these: steps, passes over the data.
BATCH, LR = 128, 4e-3
SHIFT = 0.08  # The share of its side by which an image is moved at most.
READ_AT_ONCE = 500


class Network(nn.Module):
    """Convolutions at three resolutions, then one hidden layer. shape: (C, H, W); every side is 4 or more."""

    def __init__(self, shape: tuple[int, int, int], classes: int):
        super().__init__()
        first = 2 if max(shape[1:]) > LARGE else 1

        def layer(entering: int, leaving: int, stride: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(entering, leaving, 3, stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(leaving), nn.ReLU())

        self.body = nn.Sequential(
            layer(shape[0], WIDTH, first),
            layer(WIDTH, WIDTH),
            layer(WIDTH, 2 * WIDTH, 2),
            layer(2 * WIDTH, 2 * WIDTH),
            layer(2 * WIDTH, 2 * WIDTH, 2),
            nn.Flatten(),
        )
        size = self.body.eval()(torch.zeros(1, *shape)).shape[1]
        self.hidden = nn.Sequential(nn.Linear(size, FEATURES), nn.ReLU())
        self.verdict = nn.Linear(FEATURES, classes)

    def forward(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """(N, FEATURES) and (N, classes)."""
        features = self.hidden(self.body(scaled))
        return features, self.verdict(features)


@dataclass(frozen=True)
class Classifier:
    """A trained network and its accuracy on the test images."""

    network: Network
    accuracy: float

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) on any device -> features (N, FEATURES) and labels (N,), on the CPU."""
        device = self.network.verdict.weight.device
        parts = [self.network(Pixels.scale(part.to(device))) for part in images.split(READ_AT_ONCE)]
        features, scores = (torch.cat(each).float().cpu() for each in zip(*parts, strict=True))
        return features, scores.argmax(1)


def classifier_for(
    folder: Path,
    data_hash: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    device: torch.device,
    tell: Callable[[str], None],
) -> Classifier:
    """The classifier of a data set, read from `folder` or trained and kept there.

    train, test: uint8 images (N, C, H, W) and labels (N,). data_hash: of them. tell: hears when training begins.
    """
    channels, height, width = train[0].shape[1:]
    network = Network((channels, height, width), classes)
    name = hashlib.sha256(f"{VERSION} {data_hash} {classes}".encode()).hexdigest()[:16]
    path = folder / f"{name}.safetensors"
    accuracy = _restore(network, path)
    network.to(device)
    if accuracy is None:
        tell("training a small classifier of the data set; it is kept for the next time")
        _train(network, *train, device)
        _, found = Classifier(network, 0.0).read(test[0])
        accuracy = (found == test[1]).double().mean().item()
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
        content = safetensors.torch.save(weights, {"accuracy": repr(accuracy)})
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return Classifier(network.eval().requires_grad_(False), accuracy)


def _restore(network: Network, path: Path) -> float | None:
    """Fills the network from a file and gives its accuracy; None where there is no such file that can be read."""
    try:
        with safe_open(path, "pt") as file:
            accuracy = float((file.metadata() or {})["accuracy"])
        network.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
        return None
    return accuracy


def _train(network: Network, images: Tensor, labels: Tensor, device: torch.device) -> None:
    """AdamW with a learning rate that rises and falls, on images moved by a few pixels."""
    generator = torch.Generator().manual_seed(derive_seed("classifier", VERSION))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
    network.train()
    reach = [round(SHIFT * side) for side in images.shape[2:]]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.01)
    steps = min(STEPS, max(1, PASSES * len(images) // BATCH))
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        down, right = (int(torch.randint(-r, r + 1, (), generator=generator)) for r in reach)
        batch = torch.roll(images[rows], (down, right), (2, 3)).to(device)
        _, scores = network(Pixels.scale(batch))
        loss = F.cross_entropy(scores, labels[rows].to(device), label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rates.step()
    network.eval()
