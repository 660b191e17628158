"""Properties of every network: shapes, conditions, gradients, precision, names and documentation."""

import inspect
from typing import Any

import docstring_parser
import pytest
import torch
from torch import Tensor

from models.errors import UserError
from models.variants import NETWORKS
from tests.models.networks.small import CLASSES, SMALL, awake, inputs, small, train

every_network = pytest.mark.parametrize("name", SMALL)


def test_small_options_cover_every_network() -> None:
    assert NETWORKS.names() == sorted(SMALL)


@pytest.mark.parametrize(("wrong", "hint"), [("unt", "did you mean unet?"), ("blocks", "choose from"), ("", "unet")])
def test_an_unknown_name_is_the_users_mistake(wrong: str, hint: str) -> None:
    with pytest.raises(UserError, match=r"^no network is called .*convnext, dit, unet") as error:
        NETWORKS.find(wrong)
    assert hint in str(error.value)


@every_network
def test_every_option_is_typed_documented_and_has_a_default(name: str) -> None:
    constructor = NETWORKS.find(name).__init__
    documented = {p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(constructor) or "").params}
    parameters = list(inspect.signature(constructor).parameters.values())
    assert [p.name for p in parameters[:3]] == ["self", "shape", "classes"]
    for parameter in parameters[3:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty
        assert parameter.annotation is not inspect.Parameter.empty
        assert documented[parameter.name]


@every_network
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (20, 36), (7, 7), (9, 30)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_any_number_of_channels(name: str, size: tuple[int, int], channels: int) -> None:
    shape = (channels, *size)
    noisy, t, label = inputs(shape, count=2)
    answer = awake(name, shape)(noisy, t, label)
    assert answer.shape == noisy.shape
    assert answer.dtype == torch.float32
    assert answer.isfinite().all()
    assert (answer.std(dim=(2, 3)) > 0).all()


@every_network
@pytest.mark.parametrize("size", [(4, 4), (2, 3)])
def test_latents_of_few_pixels(name: str, size: tuple[int, int]) -> None:
    shape = (4, *size)
    options = {"unet": {"multipliers": (1,), "attention_levels": (0,)}, "convnext": {"multipliers": (1,)}}.get(name, {})
    noisy, t, label = inputs(shape)
    assert awake(name, shape, patch_size=1, **options)(noisy, t, label).std() > 0


@every_network
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_defaults_fit_the_usual_images_and_begin_by_answering_zero(name: str, shape: tuple[int, int, int]) -> None:
    noisy, t, label = inputs(shape, count=1)
    assert torch.equal(NETWORKS.find(name)(shape, 10)(noisy, t, label), torch.zeros_like(noisy))


@every_network
@pytest.mark.parametrize("classes", [0, CLASSES])
def test_training_from_the_start_reaches_every_parameter(name: str, classes: int) -> None:
    network = small(name, classes=classes)
    noisy, t, label = inputs()
    # Zero-initialised parts block the gradients of earlier layers: first the head, then the gates.
    train(network, 4, noisy, t, label if classes else None, target=noisy)
    grads = {key: parameter.grad for key, parameter in network.named_parameters()}
    assert [key for key, grad in grads.items() if grad is None or grad.abs().max() < 1e-9] == []


@every_network
def test_every_image_is_answered_apart(name: str) -> None:
    network, (noisy, t, label) = awake(name), inputs()
    together = network(noisy, t, label)
    apart = torch.cat([network(noisy[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(len(noisy))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)


@every_network
def test_time_and_label_act_per_image(name: str) -> None:
    network, (noisy, t, label) = awake(name), inputs()
    answer = network(noisy, t, label)
    later = network(noisy, torch.cat((t[:1] + 0.01, t[1:])), label)
    other = network(noisy, t, torch.cat((label[:1] + 1, label[1:])))
    for changed in (later, other):
        assert (changed[0] - answer[0]).abs().max() > 1e-4
        torch.testing.assert_close(changed[1:], answer[1:])


@every_network
def test_no_label_is_the_null_label(name: str) -> None:
    network, (noisy, t, label) = awake(name), inputs()
    null = torch.full_like(label, CLASSES)
    torch.testing.assert_close(network(noisy, t, None), network(noisy, t, null))
    assert (network(noisy, t, None) - network(noisy, t, label)).abs().max() > 1e-4


@every_network
def test_dropout_acts_in_training_only(name: str) -> None:
    network, (noisy, t, label) = awake(name, dropout=0.5), inputs()
    assert torch.equal(network(noisy, t, label), network(noisy, t, label))
    torch.testing.assert_close(network(noisy, t, label), awake(name)(noisy, t, label))
    network.train()
    assert not torch.equal(network(noisy, t, label), network(noisy, t, label))


@every_network
def test_the_gradient_is_the_slope(name: str) -> None:
    """Compare the derivative along a random direction in weights and image with central differences, in float64."""
    network = awake(name).double()
    noisy, t, label = inputs()
    noisy, t = noisy.double(), t.double()
    points = [noisy.requires_grad_(), *network.parameters()]
    directions = [torch.randn_like(point) for point in points]

    def loss() -> Tensor:
        return network(noisy, t, label).square().mean()

    loss().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(points, directions, strict=True) if p.grad is not None)

    def moved(distance: float) -> Tensor:
        with torch.no_grad():
            for point, direction in zip(points, directions, strict=True):
                point.add_(distance * direction)
            value = loss()
            for point, direction in zip(points, directions, strict=True):
                point.sub_(distance * direction)
        return value

    step = 1e-6
    torch.testing.assert_close((moved(step) - moved(-step)) / (2 * step), slope, rtol=1e-5, atol=1e-9)


@every_network
def test_bfloat16_autocast_stays_near_float32(name: str) -> None:
    network, (noisy, t, label) = awake(name), inputs()
    exact = network(noisy, t, label)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(noisy, t, label).float()
    assert (rounded - exact).square().mean().sqrt() < 0.03 * exact.std()


@every_network
def test_memory_format_changes_nothing(name: str) -> None:
    network, (noisy, t, label) = awake(name, (3, 8, 8)), inputs((3, 8, 8))
    contiguous = network(noisy, t, label)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    last = network(noisy.contiguous(memory_format=torch.channels_last), t, label)
    torch.testing.assert_close(last, contiguous, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@every_network
def test_it_compiles_as_one_graph(name: str) -> None:
    network, (noisy, t, label) = awake(name), inputs()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(noisy, t, label), network(noisy, t, label))


@every_network
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "network.width 0: must be at least 1"),
        ({"dropout": 1.0}, "network.dropout 1.0: must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "network.dropout -0.1: must be at least 0 and less than 1"),
        ({"patch_size": 0}, "network.patch_size 0: must be at least 1"),
        ({"patch_size": 8}, "network.patch_size 8: images of 8x8 are reduced to 1x1"),
    ],
)
def test_wrong_options_are_named_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        small(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["dit", "unet"])
@pytest.mark.parametrize(("heads", "message"), [(-1, "heads -1: must be at least 1"), (3, "heads 3: does not divide")])
def test_wrong_heads_are_named(name: str, heads: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(name, heads=heads)
