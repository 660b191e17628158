"""Small classifiers of a data set. They recognise classes of generated images and provide features for measures.

Classifiers of the data sets digits, mnist and fashion_mnist are in models/pretrained. A classifier of other data is
trained and cached when it is first needed. Each classifier is identified by the hash of its weights and the hash of its
training data. Its accuracy on test images is reported beside every result that it gives.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.devices import measuring_device
from models.errors import UserError
from models.evaluation.classifier_settings import ClassifierSettings
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.features import FeaturesAndLogits
from models.evaluation.image_sets import LabelledImages, RealImages
from models.evaluation.recognition import accuracy
from models.optim import AdamW
from models.places import PRETRAINED
from models.progress import progress
from models.randomness import derive_seed
from models.runs import checkpoints
from models.runs.files import locked
from models.runs.yaml_files import read_yaml
from models.spaces import ImageRows
from models.spaces.pixels import Pixels

VERSION = 2  # Version of the code that determines the weights. Cached classifiers of other versions are ignored.
SHIFT = 0.08  # Largest random shift of a training image, as a share of the image's side.
BATCH = 250  # Images per forward pass.


@dataclass(frozen=True)
class Classifier:
    """A trained network and the facts in its checkpoint.

    Features change by about 1e-6 with the batch size on a CPU, and by at most 1e-12 on a GPU: see `for_inference`.
    """

    network: nn.Module
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The architecture and the first digits of the hash of the weights."""
        return f"{self.facts['network']}_{self.facts['sha256'][:8]}"

    @property
    def accuracy(self) -> float:
        """The accuracy on real test images, measured after training."""
        return self.facts["accuracy"]

    @torch.no_grad()
    def extract(self, images: ImageRows) -> FeaturesAndLogits:
        """Return the features and logits of uint8 images (N, C, H, W) on any device."""
        weight = next(self.network.parameters())
        outputs = []
        with progress("features", len(images)) as advance:
            for batch in images.split(BATCH):
                batch = batch.to(weight.device).clone(memory_format=torch.contiguous_format)  # layout affects rounding
                outputs.append(self.network(Pixels.scale(batch).to(weight.dtype)))
                advance(len(batch))
        return FeaturesAndLogits(*(torch.cat(parts).cpu() for parts in zip(*outputs, strict=True)))

    def accuracy_on(self, examples: LabelledImages) -> float:
        """Return the share of images that are classified as their label."""
        return accuracy(self.extract(examples.images).predictions, examples.labels)


def fit_classifier(
    settings: ClassifierSettings, examples: LabelledImages, classes: int, device: torch.device
) -> nn.Module:
    """Train a network. The same seed gives the same weights on the same machine."""
    torch.manual_seed(derive_seed(settings.seed, "classifier", VERSION))
    channels, height, width = examples.images.shape[1:]
    network = NETWORKS[settings.network]((channels, height, width), classes, settings.width).to(device).train()
    optimizer = AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    count, size = len(examples), min(settings.batch_size, len(examples))
    steps = max(2, round(settings.epochs_for(count) * count / size))
    lr_schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "classifier", "batches"))
    order = torch.empty(0, dtype=torch.long)
    with progress(f"training a {settings.network}", steps) as advance:
        for _ in range(steps):
            if len(order) < size:
                order = torch.randperm(count, generator=generator)
            rows, order = order[:size], order[size:]
            batch = _augment(examples.images[rows].to(device), settings.flips, generator)
            _, logits = network(Pixels.scale(batch))
            loss = F.cross_entropy(logits, examples.labels[rows].to(device), label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            lr_schedule.step()
            advance(1)
    return network


def _augment(images: Tensor, flips: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by a few random pixels, repeating its border. With `flips`, also mirror half of the images."""
    count, _, height, width = images.shape
    indices = []
    for side in (height, width):
        reach = max(1, round(SHIFT * side))
        offsets = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
        indices.append((torch.arange(side) + offsets).clamp(0, side - 1))
    down, right = indices  # drawn on the CPU, so that they are the same on every device
    if flips:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        right = torch.where(mirrored, right.flip(1), right)
    channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
    grid = torch.arange(count).view(-1, 1, 1, 1), channels, down[:, None, :, None], right[:, None, None, :]
    return images[tuple(index.to(images.device) for index in grid)]


def for_inference(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network in eval mode: in float64 on a CUDA device, else in float32 on the CPU.

    A GPU would round float32 to TF32. On a CPU, float64 takes six times as long.
    """
    dtype = torch.float64 if device.type == "cuda" else torch.float32
    return network.to(measuring_device(device), dtype).eval().requires_grad_(False)


def write_classifier(path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the weights in half precision, and the facts to a file beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    checkpoints.write_checkpoint(path, tensors, facts)


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Load a classifier from its file. Raises UserError if the file is damaged or is no classifier."""
    tensors, facts = checkpoints.load_checkpoint(path)
    missing = {"network", "width", "shape", "classes", "accuracy", "data_sha256"} - facts.keys()
    if missing or facts["network"] not in NETWORKS:
        raise UserError(f"{path} is no feature network; make one with train_classifier")
    try:
        network = NETWORKS[facts["network"]](tuple(facts["shape"]), facts["classes"], facts["width"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} describes no network that can be built: {error}") from None
    checkpoints.fill_network(network, tensors, path)
    return Classifier(for_inference(network, device), facts)


def pretrained_path(network: str, data_sha256: str) -> Path | None:
    """Return the file in models/pretrained for this architecture and training split; None if no file matches."""
    for path in sorted(PRETRAINED.glob(f"*_{network}.yaml")):
        if read_yaml(path).get("data_sha256") == data_sha256:
            return path.with_suffix(".safetensors")
    return None


def cache_key(settings: ClassifierSettings, data_key: str) -> str:
    """Return the cache key of a classifier with these settings and training data, or of its results."""
    values = ", ".join(f"{name}={value!r}" for name, value in asdict(settings).items())
    # The hashed text must keep the word `Schooling`, or existing cache files would no longer be found.
    return hashlib.sha256(f"{VERSION} Schooling({values}) {data_key}".encode()).hexdigest()[:16]


def cached_path(cache: Path, settings: ClassifierSettings, data_key: str) -> Path:
    """Return the file in the folder `cache` for a classifier with these settings and this training split."""
    return cache / f"{cache_key(settings, data_key)}.safetensors"


def train_and_save(settings: ClassifierSettings, real: RealImages, device: torch.device, path: Path) -> Classifier:
    """Train a classifier, measure its accuracy on the test images, and write it."""
    classes = len(real.class_names)
    trained = fit_classifier(settings, real.train, classes, device)
    network = for_inference(trained.half(), device)  # Accuracy is measured with weights rounded as in the file.
    facts = {
        "dataset": real.name,
        "network": settings.network,
        "width": settings.width,
        "shape": list(real.train.images.shape[1:]),
        "classes": classes,
        **real.train.identity.facts("data_"),
        "accuracy": Classifier(network, {}).accuracy_on(real.test),
        "test_images": len(real.test),
        "settings": {**asdict(settings), "epochs": settings.epochs_for(len(real.train))},
        "version": VERSION,
        "torch": str(torch.__version__),
        "licence": "MIT",
    }
    write_classifier(path, network, facts)
    return load_classifier(path, device)


def find_or_train(
    cache: Path, settings: ClassifierSettings, real: RealImages, device: torch.device, tell: Callable[[str], None]
) -> Classifier:
    """Return the classifier of a data set: from models/pretrained, else from the folder `cache`, else newly trained.

    tell: receives one line when training begins. Raises UserError if a file in models/pretrained is damaged.
    """
    path = pretrained_path(settings.network, real.train.identity.sha256)
    if path is not None:
        return load_classifier(path, device)
    path = cached_path(cache, settings, real.train.identity.key)
    with suppress(UserError):
        return load_classifier(path, device)
    with locked(path.with_name(f".{path.name}.lock")):
        with suppress(UserError):  # Another process may have trained it meanwhile.
            return load_classifier(path, device)
        tell(f"training a {settings.network} to recognise {real.name}; it takes up to a few minutes and is cached")
        return train_and_save(settings, real, device, path)
