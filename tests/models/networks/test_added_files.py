"""A network and a conditioning, added as one new file each: found by name and built together."""

from pathlib import Path

import pytest
import torch

from models.errors import UserError
from models.networks import conditioning
from models.variants import CONDITIONINGS, NETWORKS
from tests.added import add
from tests.models.networks.small import CLASSES, SMALL, inputs, small, train


@pytest.fixture
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("one_layer", tmp_path, monkeypatch)
    add("everything", tmp_path, monkeypatch)
    add("helpers", tmp_path, monkeypatch, conditioning, "class Other: pass")


@pytest.mark.usefixtures("_added")
def test_files_that_expose_their_class_are_found() -> None:
    assert NETWORKS.names() == sorted([*SMALL, "one_layer"])
    assert CONDITIONINGS.names() == ["concatenation", "cross_attention", "embedding", "everything"]
    with pytest.raises(UserError, match="did you mean everything"):
        CONDITIONINGS.find("everythin")


@pytest.mark.usefixtures("_added")
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_an_added_conditioning_serves_the_networks_there_are(name: str) -> None:
    noisy, t, label = inputs()
    network = small(name, conditioning="everything")
    train(network, 4, noisy, t, label, target=noisy)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert (network(noisy, t, label) - network(noisy, t, label.flip(0))).abs().max() > 1e-5


@pytest.mark.usefixtures("_added")
def test_an_added_network_goes_with_an_added_conditioning() -> None:
    noisy, t, label = inputs()
    network = NETWORKS.build("one_layer", (1, 8, 8), CLASSES, kernel_size=5, conditioning="everything")
    answer = network(noisy, t, label)
    assert answer.shape == noisy.shape
    assert torch.equal(network(noisy, t, None), network(noisy, t, torch.full_like(label, CLASSES)))
