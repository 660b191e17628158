"""A network and a conditioning as one new file each: found by name, built together, reached by flags."""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models import conditioning, networks, variants
from models.errors import UserError
from scripts.arguments import parse
from scripts.flags import FLOW
from tests.models.networks.small import CLASSES, SMALL, inputs, small, train

NETWORK = '''
from torch import nn
from models.networks.embeddings import Condition

class OneLayer(nn.Module):
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
CONDITIONING = """
import torch
from torch import nn
from models.conditioning import Conditioning, Signals

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


@pytest.fixture
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for package, name, source in (
        (networks, "one_layer", NETWORK),
        (conditioning, "everything", CONDITIONING),
        (conditioning, "helpers", "class Other: pass"),
    ):
        folder = tmp_path / package.__name__
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    for added in ("models.networks.one_layer", "models.conditioning.everything", "models.conditioning.helpers"):
        sys.modules.pop(added, None)


@pytest.mark.usefixtures("_added")
def test_files_that_expose_their_class_are_found() -> None:
    assert networks.names() == sorted([*SMALL, "one_layer"])
    assert conditioning.names() == ["concatenation", "cross_attention", "embedding", "everything"]
    assert variants.names("models.conditioning", int) == []
    with pytest.raises(UserError, match="did you mean 'everything'"):
        conditioning.find("everythin")


@pytest.mark.usefixtures("_added")
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_an_added_conditioning_serves_the_networks_there_are(name: str) -> None:
    noisy, t, label = inputs()
    network = small(name, conditioning="everything")
    train(network, 4, noisy, t, label, target=noisy)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert (network(noisy, t, label) - network(noisy, t, label.flip(0))).abs().max() > 1e-5


@pytest.mark.usefixtures("_added")
def test_added_files_are_reached_from_the_command_line() -> None:
    argv = ["--network", "one_layer", "--network.kernel_size", "5", "--network.conditioning", "everything"]
    flags = parse(argv, FLOW, "train_flow", "")
    assert dataclasses.asdict(flags.network_options) == {"kernel_size": 5, "conditioning": "everything"}
    noisy, t, label = inputs()
    network = networks.find(flags.network)((1, 8, 8), CLASSES, **dataclasses.asdict(flags.network_options))
    answer = network(noisy, t, label)
    assert answer.shape == noisy.shape
    assert torch.equal(network(noisy, t, None), network(noisy, t, torch.full_like(label, CLASSES)))
