"""Measures are computed on the device of the run. A second device is stood in for on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from models.devices import measuring_device
from models.evaluation import protocol as protocols
from models.evaluation.classifier import Classifier, for_inference
from models.evaluation.evaluation import Evaluation
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.features import FeaturesAndLogits
from models.evaluation.fidelity import fidelity
from models.evaluation.image_sets import Samples
from models.evaluation.measures import MeasureSettings, Reference, measure_features, memory_measures
from models.evaluation.memorisation import memorisation
from models.evaluation.protocol import Protocol
from models.variants import DATA_SETS
from scripts.tasks.extractors import real_images

ELSEWHERE = torch.device("xpu")
HEAVY = {"matmul", "__matmul__", "__rmatmul__", "addmm", "linalg_qr", "topk", "min", "conv2d"}


class There(Tensor):
    """A tensor that lies on the other device, as far as this test is concerned."""


class OtherDevice(TorchFunctionMode):
    """Let ELSEWHERE be a device. An operation on tensors of two devices fails, as on a GPU.

    heavy: names of the costly operations, and whether they ran there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heavy: set[tuple[str, bool]] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [isinstance(tensor, There) for tensor in tensors if tensor.dim() > 0]
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return ELSEWHERE if isinstance(args[0], There) else func(*args)
        if name == "cpu" or (name == "to" and args[1] == ELSEWHERE):
            return args[0].as_subclass(There if name == "to" else Tensor)
        if kwargs.get("device") == ELSEWHERE:
            return func(*args, **{**kwargs, "device": "cpu"}).as_subclass(There)
        assert len(set(there)) < 2 or name == "__getitem__", f"{name} mixes devices"
        if name in HEAVY and max(tensor.numel() for tensor in tensors) >= 20_000:
            self.heavy.add((name, any(there)))
        return func(*args, **kwargs)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    real = real_images(DATA_SETS.find("digits")().load(Path()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = for_inference(NETWORKS["convnet"]((1, 8, 8), 10), torch.device("cpu"))
    facts = {"network": "convnet", "sha256": "0" * 64, "accuracy": 0.1}
    settings = MeasureSettings(draws=10)
    return Protocol(real, [Classifier(network, facts)], settings, tmp_path_factory.mktemp("cache"), torch.device("cpu"))


def test_an_evaluation_computes_on_the_device_of_the_run(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are those of the CPU. The network stays where it is: networks choose their own device."""
    trained: list[torch.device] = []

    def fit(settings: object, examples: object, classes: int, device: torch.device) -> Any:
        trained.append(device)
        return protocol.extractors[0].network  # type: ignore[attr-defined]

    monkeypatch.setattr(protocols, "fit_classifier", fit)
    monkeypatch.setattr(protocols, "for_inference", lambda network, device: network)
    rows = protocol.floor_rows(200)
    samples = Samples(protocol.real.test.images[rows], protocol.real.test.labels[rows], "images", {})
    here = Evaluation(protocol, samples)
    here.measure(classification_accuracy=True)
    for known in protocol.cache.glob("neighbours-*"):
        known.unlink()
    there = Evaluation(replace(protocol, device=ELSEWHERE), samples)
    with OtherDevice() as other:
        there.measure(classification_accuracy=True)
    assert trained == [protocol.device] * 2 + [ELSEWHERE] * 2
    assert {name for name, _ in other.heavy} >= {"matmul", "addmm", "linalg_qr", "topk", "min"}
    assert {name for name, elsewhere in other.heavy if not elsewhere} == {"conv2d"}
    for mine, others in ((here.measurements, there.measurements), (here.floors, there.floors)):
        assert mine.keys() == others.keys()
        for name, measurement in mine.items():
            assert others[name][:3] == pytest.approx(measurement[:3], rel=1e-12, nan_ok=True), name
            assert others[name].resampled is None or type(others[name].resampled) is Tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_measures_on_a_gpu_are_those_of_the_cpu() -> None:
    generator, settings = torch.Generator().manual_seed(0), MeasureSettings(draws=10, extrapolate=True)
    sets = [torch.randn(count, 16, generator=generator, dtype=torch.float64) for count in (300, 400, 350)]
    logits, found = torch.randn(300, 10, generator=generator), []
    for device in (torch.device("cpu"), torch.device("cuda")):
        samples, train, test = (part.to(device) for part in sets)
        reference = Reference.of(train, len(samples), 0)
        rows = measure_features(FeaturesAndLogits(samples, logits), reference, "x", settings)
        rows |= memory_measures(memorisation(samples, train, test), "x", settings)
        found.append([number for row in rows.values() for number in row[:3]])
    assert found[1] == pytest.approx(found[0], rel=1e-9, abs=1e-9, nan_ok=True)


def test_reconstructions_are_compared_on_their_device(protocol: Protocol) -> None:
    images = protocol.real.test.images[torch.arange(350)]
    pairs = images, images.flip(0)
    with OtherDevice() as other:
        found = fidelity([tuple(part.to(ELSEWHERE) for part in pairs)])  # type: ignore[list-item]
    assert found == fidelity([pairs]) and other.heavy == {("conv2d", True)}


def test_mps_has_no_float64() -> None:
    devices = [measuring_device(torch.device(name)).type for name in ("mps", "cuda:1", "cpu")]
    assert devices == ["cpu", "cuda", "cpu"]
