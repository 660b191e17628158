"""Properties of every conditioning in every network that can read it, and the refusal of other pairs."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import UserError
from models.networks.blocks import PixelCrossAttention
from models.networks.conditioning import Conditioning
from models.networks.conditioning.concatenation import Concatenation
from models.networks.conditioning.cross_attention import CrossAttention
from models.networks.dit import TokenCrossAttention
from models.variants import CONDITIONINGS
from tests.models.networks.small import CLASSES, SMALL, awake, inputs, small, train

PAIRS = [pair for pair in product(SMALL, CONDITIONINGS.names()) if pair != ("convnext", "cross_attention")]
every_pair = pytest.mark.parametrize(("name", "way"), PAIRS)
every_way = pytest.mark.parametrize("way", CONDITIONINGS.names())


@every_way
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_signals_have_the_announced_shapes(way: str, classes: int) -> None:
    conditioning: Conditioning = CONDITIONINGS.build(way, classes, 12, (2, 5, 7))
    label = torch.tensor([classes, 0])
    vector, planes, tokens = conditioning(label)
    assert vector is None or vector.shape == (2, 12)
    assert (0 if planes is None else planes.shape[1]) == conditioning.channels
    assert planes is None or planes.shape == (2, conditioning.channels, 5, 7)
    assert (0 if tokens is None else tokens.shape[1]) == conditioning.tokens
    assert tokens is None or tokens.shape == (2, conditioning.tokens, 12)
    assert not all(signal is None for signal in (vector, planes, tokens))


def test_planes_begin_flat_and_tell_classes_apart() -> None:
    planes = Concatenation(CLASSES, 8, (1, 4, 6))(torch.arange(CLASSES + 1)).planes
    assert planes is not None
    assert planes.std(dim=(2, 3)).max() < 1e-6
    assert torch.pdist(planes[..., 0, 0]).min() > 1e-2


def test_there_is_something_to_attend_to() -> None:
    assert CrossAttention.tokens > 1


@every_pair
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 7), (1, 20, 36), (5, 28, 28)])
def test_any_size_and_any_number_of_channels(name: str, way: str, shape: tuple[int, int, int]) -> None:
    noisy, t, label = inputs(shape, count=2)
    assert torch.equal(small(name, shape, conditioning=way)(noisy, t, label), torch.zeros_like(noisy))
    answer = awake(name, shape, conditioning=way)(noisy, t, label)
    assert answer.shape == noisy.shape and answer.isfinite().all()


@every_pair
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_training_from_the_start_reaches_every_parameter(name: str, way: str, classes: int) -> None:
    """Queries and keys are checked apart, where one projection computes several of them."""
    network = small(name, classes=classes, conditioning=way)
    noisy, t, label = inputs()
    train(network, 4, noisy, t, label if classes else None, target=noisy)
    grads: dict[str, Tensor] = {}
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        parts = 3 if "qkv" in key else 2 if "key_value" in key else 1
        grads |= {f"{key}[{part}]": grad for part, grad in enumerate(parameter.grad.chunk(parts))}
    assert [key for key, grad in grads.items() if grad.abs().max() < 1e-9] == []


@every_pair
def test_the_label_is_learned(name: str, way: str) -> None:
    """Train towards a constant per label. The label then decides the output, image by image."""
    network = small(name, conditioning=way)
    noisy, t, label = inputs(count=8)
    target = (label - 1.0)[:, None, None, None].expand_as(noisy)
    train(network, 20, noisy, t, label, target=target)
    with torch.no_grad():
        answer = network(noisy, t, label)
        other = network(noisy, t, torch.cat(((label[:1] + 1) % CLASSES, label[1:])))
    assert (answer - target).square().mean() < 0.5 * target.square().mean()
    assert (other[0] - answer[0]).abs().max() > 0.05
    torch.testing.assert_close(other[1:], answer[1:])


@every_pair
def test_no_label_is_the_null_label(name: str, way: str) -> None:
    network, (noisy, t, label) = awake(name, conditioning=way), inputs()
    null = torch.full_like(label, CLASSES)
    torch.testing.assert_close(network(noisy, t, None), network(noisy, t, null))
    assert (network(noisy, t, None) - network(noisy, t, label)).abs().max() > 1e-5


@every_pair
def test_bfloat16_autocast_stays_near_float32(name: str, way: str) -> None:
    network, (noisy, t, label) = awake(name, conditioning=way), inputs()
    exact = network(noisy, t, label)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(noisy, t, label).float()
    assert (rounded - exact).square().mean().sqrt() < 0.03 * exact.std()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "unet"])
def test_it_compiles_as_one_graph(name: str) -> None:
    network, (noisy, t, label) = awake(name, conditioning="cross_attention"), inputs()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(noisy, t, label), network(noisy, t, label))


@pytest.mark.parametrize("heads", [1, 2])
def test_reading_is_softmax_attention_to_the_tokens(heads: int) -> None:
    torch.manual_seed(0)
    hidden, tokens = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6)
    reading = PixelCrossAttention(8, heads, 6)
    assert torch.equal(reading(hidden, tokens), hidden)
    torch.nn.init.normal_(reading.out.weight)
    queries = reading.query(reading.norm(hidden)).flatten(2).transpose(1, 2)  # (N, L, 8)
    keys, values = reading.key_value(tokens).chunk(2, dim=2)
    expected = attended(queries, keys, values, heads)
    expected = hidden + reading.out(expected.transpose(1, 2).unflatten(2, (3, 5)))
    torch.testing.assert_close(reading(hidden, tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
def test_patches_read_by_softmax_attention(heads: int) -> None:
    torch.manual_seed(0)
    patches, tokens = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    reading = TokenCrossAttention(8, heads, qk_norm=False)
    assert torch.equal(reading(patches, tokens), torch.zeros_like(patches))
    torch.nn.init.normal_(reading.out.weight)
    queries = reading.query(torch.nn.functional.layer_norm(patches, (8,)))
    keys, values = reading.key_value(tokens).chunk(2, dim=2)
    expected = reading.out(attended(queries, keys, values, heads))
    torch.testing.assert_close(reading(patches, tokens), expected, atol=1e-5, rtol=1e-5)


def attended(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Return softmax attention, computed head by head: (N, L, C), (N, M, C) twice -> (N, L, C)."""
    mixed = []
    for q, k, v in zip(*(part.chunk(heads, dim=2) for part in (queries, keys, values)), strict=True):
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, dim=2)
        mixed.append(weights @ v)
    return torch.cat(mixed, dim=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "unet",
            {"attention_levels": ()},
            "a UNet without attention_levels .* choose one or more network.attention_levels",
        ),
        (
            "convnext",
            {},
            "a ConvNeXt has no attention to read them; use another network or",
        ),
    ],
)
def test_tokens_without_attention_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^network.conditioning cross_attention: .* 4 tokens, and {message}"):
        small(name, conditioning="cross_attention", **options)


@pytest.mark.parametrize("name", SMALL)
def test_an_unknown_conditioning_is_the_users_mistake(name: str) -> None:
    with pytest.raises(UserError, match=r"^no conditioning is called 'embeding': choose.*did you mean embedding\?"):
        small(name, conditioning="embeding")
