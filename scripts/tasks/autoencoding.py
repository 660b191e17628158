"""Code shared by the autoencoder tasks: prepare a training run, open a trained autoencoder, read its images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import data
from data import ImageData
from data.batches import Batches
from models import devices, processes
from models.autoencoders.autoencoder import Autoencoder, AutoencoderSpec, load_autoencoder
from models.autoencoders.loss import AutoencoderLoss
from models.drawing.sheets import check_scale
from models.errors import UserError
from models.randomness import derive_seed
from models.runs import checkpoints
from models.training.autoencoder_objective import AutoencoderObjective
from models.training.latent_pictures import SLICE
from scripts.cli.arguments import to_config
from scripts.cli.flags import AutoencoderFlags, AutoencoderLossFlags, CodingFlags
from scripts.tasks import run_data
from scripts.tasks.run_data import data_facts
from scripts.tasks.sampling import find_trained
from scripts.tasks.training import Prepared, describe_run_line, few, initialise, load_data, spelled, train_settings

# -- training ---------------------------------------------------------------------------------------------------------


def prepare_autoencoder(flags: AutoencoderFlags, stored: Mapping[str, Any]) -> Prepared:
    """Load the data and build the objects of a training run. stored: as for `run_training`. Raises UserError."""
    device = torch.device(flags.run.device)
    flags = replace(flags, data=replace(flags.data, data_root=str(data.data_root(flags.data.data_root))))
    dataset = load_data(flags, flags.run.experiments_dir, lambda note: None, stored)
    _, channels, height, width = dataset.train.images.shape
    _check_likelihood(flags)
    check_scale(flags.scale, (height, 2 * width), SLICE, SLICE)
    likelihood = flags.likelihood
    spec = AutoencoderSpec(
        kind=flags.kind,
        network=flags.network,
        network_options=asdict(flags.network_options),
        shape=(channels, height, width),
        class_names=tuple(dataset.class_names),
        likelihood=likelihood.reconstruction,
    )
    loss = AutoencoderLoss(
        likelihood.reconstruction, likelihood.kl_weight, likelihood.kl_warmup_steps, likelihood.free_bits
    )
    torch.manual_seed(derive_seed(flags.run.seed, "weights"))
    network = spec.build_network().to(device)
    word = f"{flags.kind} with {dims(network.latent_shape)} latents"
    report = [describe_run_line(dataset, word, network, flags.run), *spelled(dataset.notes)]
    if flags.run.init_from is not None and not stored:
        report.append(initialise(network, flags.run, ("train_vae",)))
    train_few, test_few = (few(split, flags.report.eval_images, device) for split in (dataset.train, dataset.test))
    objective = AutoencoderObjective(
        spec=spec,
        loss=loss,
        latent_shape=network.latent_shape,
        autocast=devices.autocast_dtype(flags.run.precision),
        train_images=train_few.in_memory(),
        test_images=test_few.in_memory(),
        test_labels=test_few.labels,
        seed=flags.run.seed,
        umap=flags.umap,
        scale=flags.scale,
        picture_format=flags.report.format,
    )
    size, run = flags.optimizer.batch_size, flags.run
    share, workers = processes.rank_share(size), run.workers
    return Prepared(
        objective=objective,
        network=network,
        batches=Batches(dataset.train, size, run.seed, dataset.flips, device, share=share, workers=workers),
        settings=train_settings(flags),
        config=to_config(flags),
        facts={"autoencoder": spec.facts(), "data": data_facts(dataset)},
        report=report,
        device=device,
        broken=dataset.broken,
        files=run_data.rows_of(dataset),
    )


def _check_likelihood(flags: AutoencoderFlags) -> None:
    """Raise UserError if a KL flag is set for a plain autoencoder."""
    likelihood, defaults = flags.likelihood, AutoencoderLossFlags()
    for name in ("kl_weight", "kl_warmup_steps", "free_bits"):
        value = getattr(likelihood, name)
        if flags.kind == "autoencoder" and value != getattr(defaults, name):
            raise UserError(f"`{name}` {value}: `kind` autoencoder has no posterior", f"leave out `{name}`")


# -- a trained autoencoder --------------------------------------------------------------------------------------------


def open_autoencoder(flags: CodingFlags, weights: str = "ema") -> tuple[Autoencoder, torch.device]:
    """Load the autoencoder that the flags name, and return it with its device. Raises UserError."""
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    if flags.checkpoint in (checkpoints.LAST, checkpoints.BEST):
        run = find_trained(flags.run, flags.experiments_dir, "train_vae")
        path = checkpoints.resolve_checkpoint(run, flags.checkpoint)
    else:
        path = Path(flags.checkpoint)
    model = load_autoencoder(path, weights)
    model.network.to(device)
    return model, device


def load_images(flags: CodingFlags, model: Autoencoder) -> ImageData:
    """Load the data set of the flags. Raises UserError if the autoencoder takes images of another shape."""
    dataset = load_data(flags, flags.experiments_dir)
    shape = tuple(dataset.train.images.shape[1:])
    if model.spec.shape != shape:
        raise UserError(
            f"`dataset` {flags.dataset}: its images are {dims(shape)}, and {model.path} takes {dims(model.spec.shape)}"
        )
    return dataset


def read_images(files: Sequence[str], shape: tuple[int, int, int], options: Mapping[str, Any]) -> Tensor:
    """Read image files as uint8 (N, *shape). Raises UserError if one cannot be decoded or has another image size.

    options: of the data set, whose background and white level are used.
    """
    from data.readers.decoding import BROKEN
    from data.readers.pictures import Target, decode

    images, read_as = [], {name: options[name] for name in ("background", "white_level") if name in options}
    for file in files:
        try:
            target = Target(None, shape[0], crop=False, **read_as)
            image = torch.tensor(decode(Path(file).read_bytes(), target, file))
        except BROKEN as error:
            raise UserError(f"`image` {file} cannot be read as an image: {' '.join(str(error).split())}") from None
        if image.shape != shape:
            size, required = dims(image.shape[1:]), dims(shape[1:])
            raise UserError(f"`image` {file} is {size} (height x width); the autoencoder takes {required}")
        images.append(image)
    return torch.stack(images)


def dims(shape: Sequence[int]) -> str:
    """Return a shape as text, e.g. 1x28x28."""
    return "x".join(map(str, shape))
