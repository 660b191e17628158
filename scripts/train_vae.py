"""Trains an autoencoder: a VAE with a Gaussian posterior, or a plain one."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

import data
from data.batches import Batches
from models import devices, processes
from models.autoencoders.autoencoder import AutoencoderSpec
from models.autoencoders.loss import AutoencoderLoss
from models.errors import UserError
from models.randomness import derive_seed
from models.training.autoencoder_objective import AutoencoderObjective
from scripts.cli.arguments import to_config
from scripts.cli.command import run_command
from scripts.cli.flags import AutoencoderFlags, AutoencoderLossFlags
from scripts.tasks.training import (
    Prepared,
    build_settings,
    describe_run_line,
    few,
    fingerprint,
    initialise,
    load_data,
    run_training,
)

DESCRIPTION = "Train an autoencoder, for latent diffusion or by itself. Prints the run folder."


def main(argv: list[str]) -> None:
    run_training(argv, "train_vae", AutoencoderFlags(), DESCRIPTION, prepare_autoencoder)


def prepare_autoencoder(flags: AutoencoderFlags, resumed: bool) -> Prepared:
    """Loads the data and builds every object. Raises UserError for what does not fit."""
    device = torch.device(flags.run.device)
    flags = replace(flags, data=replace(flags.data, data_root=str(data.data_root(flags.data.data_root))))
    dataset = load_data(flags)
    images = dataset.train.images
    _check_likelihood(flags)
    spec = AutoencoderSpec(
        kind=flags.kind,
        network=flags.network,
        network_options=asdict(flags.network_options),
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        class_names=tuple(dataset.class_names),
        likelihood=flags.likelihood.reconstruction,
    )
    likelihood = flags.likelihood
    loss = AutoencoderLoss(
        likelihood.reconstruction, likelihood.kl_weight, likelihood.kl_warmup_steps, likelihood.free_bits
    )
    torch.manual_seed(derive_seed(flags.run.seed, "weights"))
    network = spec.build_network().to(device)
    latent = "x".join(map(str, network.latent_shape))
    report = [describe_run_line(dataset, f"{flags.kind} with {latent} latents", network, flags.run)]
    if flags.run.init_from is not None and not resumed:
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
    )
    batch_size = flags.optimizer.batch_size
    share = processes.rank_share(batch_size)
    return Prepared(
        objective=objective,
        network=network,
        batches=Batches(
            dataset.train, batch_size, flags.run.seed, dataset.flips, device, share=share, workers=flags.run.workers
        ),
        settings=build_settings(flags.optimizer, flags.budget, flags.run, flags.report),
        config=to_config(flags),
        facts={"autoencoder": spec.facts(), "data": {"name": dataset.name, "sha256": fingerprint(dataset)}},
        report=report,
        device=device,
        broken=dataset.broken,
    )


def _check_likelihood(flags: AutoencoderFlags) -> None:
    """Refuses flags of a KL that a plain autoencoder has not."""
    asked, usual = flags.likelihood, AutoencoderLossFlags()
    for name in ("kl_weight", "kl_warmup_steps", "free_bits"):
        if flags.kind == "autoencoder" and getattr(asked, name) != getattr(usual, name):
            raise UserError(f"--{name} {getattr(asked, name)}: --kind autoencoder has no posterior; leave it out")


if __name__ == "__main__":
    run_command(main, parallel=True)
