"""Three ways to train and sample one network: our loop, and two loops that follow the examples of other libraries.

The two loops use public classes of their libraries. Optimizer, weight averaging, learning rate and data loading are
those of the examples. All three use our network, batch size and label dropout.
"""

import copy
import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from data import ImageData, Split
from models import devices
from models.generation import Sampling, generate
from models.model import DenoiserSpec
from models.processes import cores
from models.runs.run import Run
from scripts.cli.flags import TrainFlags
from scripts.tasks.denoising import assemble

CHAIN = 1000  # Default number of timesteps of both libraries.
EXAMPLE_LR = 1e-4  # Learning rate of both examples.
SAMPLE_BATCH = 250  # Images per batch of samples.


class PILDataset(Dataset):
    """Images of a split. Each passes through PIL and torchvision's transforms, as in torchvision's data sets."""

    def __init__(self, split: Split, steps: Sequence[Any]):
        from torchvision import transforms  # Slow to import, and not needed for --help.

        self.images, self.labels = split.in_memory().permute(0, 2, 3, 1).squeeze(3).numpy(), split.labels
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        clean: Any = self.transform(Image.fromarray(self.images[index]))
        return clean, int(self.labels[index])


class Drawn(NamedTuple):
    """Samples, uint8 (N, C, H, W). nfe: network evaluations per image."""

    images: Tensor
    nfe: float


class Peer(Protocol):
    """Interface of a contender: it trains step by step and samples."""

    steps_on_the_way: Sequence[int]  # Numbers of sampling steps tried during training. The best result is kept.
    steps_to_try: Sequence[int]  # Numbers of sampling steps tried after training, in ascending order.

    def step(self) -> None:
        """Take one optimizer step."""
        ...

    def sample(self, labels: Tensor, steps: int) -> Drawn:
        """Draw one image for each label with the averaged weights."""
        ...


@dataclass(frozen=True)
class Match:
    """Settings and data that the contenders share. scale: guidance scale. lr: learning rate of the two libraries."""

    settings: TrainFlags
    dataset: ImageData
    spec: DenoiserSpec
    minutes: float
    scale: float
    lr: float

    @property
    def device(self) -> torch.device:
        return torch.device(self.settings.run.device)

    @property
    def passes(self) -> int:
        """Number of network evaluations per sampling step in the two libraries: 2 with guidance."""
        return 1 if self.scale == 1 else 2

    def network(self) -> nn.Module:
        """Return the network with the initial weights of our loop."""
        return assemble(self.settings, self.dataset).network.train()

    def dropped(self, label: Tensor) -> Tensor:
        """Replace each label by the null label with probability `label_drop`."""
        drop = torch.rand(label.shape, device=label.device) < self.settings.process.label_drop
        return torch.where(drop, self.spec.classes, label)

    def guided(self, network: nn.Module, noisy: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return the output of a network with classifier-free guidance. t: integer timesteps (N,)."""
        with_label = network(noisy, share_of_chain(t), label)
        if self.scale == 1:
            return with_label
        without = network(noisy, share_of_chain(t), torch.full_like(label, self.spec.classes))
        return without + self.scale * (with_label - without)

    def loader(self, steps: Sequence[Any], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an endless iterator over batches of a DataLoader. steps: torchvision transforms after ToTensor."""
        from torchvision import transforms

        flips = [transforms.RandomHorizontalFlip()] if self.dataset.flips else []
        images = PILDataset(self.dataset.train, [*flips, transforms.ToTensor(), *steps])
        size, pinned = self.settings.optimizer.batch_size, self.device.type == "cuda"
        batches = DataLoader(images, size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pinned)
        return (batch for _ in count() for batch in batches)


def share_of_chain(t: Tensor) -> Tensor:
    """Convert timesteps 0..CHAIN-1 to the times in (0, 1] that our networks take."""
    return (t + 1) / CHAIN


class Ours:
    """The training loop and the samplers of this repository."""

    name: ClassVar = "ours"
    package: ClassVar = "torch"
    sampler: ClassVar = "Heun"
    steps_on_the_way = (12,)
    steps_to_try = (2, 3, 4, 6, 8, 12, 18, 25, 50)

    def __init__(self, match: Match, folder: Path):
        budget = replace(match.settings.budget, epochs=None, max_steps=None, max_minutes=match.minutes)
        prepared = assemble(replace(match.settings, budget=budget), match.dataset)
        self.match, self.autocast = match, devices.autocast_dtype(match.settings.run.precision)
        self.trainer = prepared.trainer(Run.create(folder, "bench_peers", match.dataset.name, None))

    def step(self) -> None:
        self.trainer.timed_step()

    def sample(self, labels: Tensor, steps: int) -> Drawn:
        model = self.match.spec.model(self.trainer.ema.network, self.match.device, self.autocast)
        sampling = Sampling("heun", steps, guidance_scale=self.match.scale)
        batches = list(generate(model, sampling, len(labels), labels.tolist(), 0, SAMPLE_BATCH))
        return Drawn(torch.cat([batch.images for batch in batches]), batches[0].nfe)


class _Conditional(nn.Module):
    """Wrapper of our network with the interface that denoising_diffusion_pytorch.classifier_free_guidance expects."""

    random_or_learned_sinusoidal_cond = False

    def __init__(self, match: Match):
        super().__init__()
        self.match, self.network = match, match.network()
        self.channels = self.out_dim = match.dataset.train.images.shape[1]
        self.cond_drop_prob = match.settings.process.label_drop

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.network(noisy, share_of_chain(t), self.match.dropped(label))

    def forward_with_cond_scale(self, noisy: Tensor, t: Tensor, label: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the guided output twice. The library reads the second one only in variants that are not used here."""
        guided = self.match.guided(self.network, noisy, t, label)
        return guided, guided


class DenoisingDiffusionPytorch:
    """GaussianDiffusion, trained as its package's Trainer does: Adam, EMA every tenth step, one worker per core."""

    name: ClassVar = "denoising-diffusion-pytorch"
    package: ClassVar = name
    sampler: ClassVar = "its DDIM (eta 1), DDPM at 1000"
    steps_on_the_way = (8, 25)
    steps_to_try = (5, 8, 12, 18, 25, 50, 100, 250, CHAIN)

    def __init__(self, match: Match, folder: Path):
        self.match = match
        self.library = importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")
        self.diffusion = self._diffusion(_Conditional(match), CHAIN).to(match.device)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=match.lr, betas=(0.9, 0.99))
        self.average = importlib.import_module("ema_pytorch").EMA(self.diffusion, beta=0.995, update_every=10)
        self.batches = match.loader((), cores())

    def _diffusion(self, network: nn.Module, steps: int) -> Any:
        size = self.match.dataset.train.images.shape[-1]
        return self.library.GaussianDiffusion(network, image_size=size, timesteps=CHAIN, sampling_timesteps=steps)

    def step(self) -> None:
        images, labels = (tensor.to(self.match.device) for tensor in next(self.batches))
        loss = self.diffusion(images, classes=labels)
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()

    def sample(self, labels: Tensor, steps: int) -> Drawn:
        diffusion = self._diffusion(self.average.ema_model.model, steps).to(self.match.device).eval()
        parts = [diffusion.sample(classes=part.to(self.match.device)) for part in labels.split(SAMPLE_BATCH)]
        images = self.match.spec.space.decode(torch.cat(parts) * 2 - 1).cpu()
        return Drawn(images, steps * self.match.passes)


class Diffusers:
    """DDPMScheduler and EMAModel, as in diffusers' unconditional example, with labels and without accelerate."""

    name: ClassVar = "diffusers"
    package: ClassVar = name
    sampler: ClassVar = "DDIMScheduler, DDPMScheduler at 1000"
    steps_on_the_way = (8, 25)
    steps_to_try = DenoisingDiffusionPytorch.steps_to_try

    def __init__(self, match: Match, folder: Path):
        from diffusers.optimization import get_scheduler
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
        from diffusers.training_utils import EMAModel
        from torchvision import transforms

        self.match, self.network = match, match.network()
        self.chain: Any = DDPMScheduler(num_train_timesteps=CHAIN, beta_schedule="linear")
        parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(parameters, match.lr, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        steps = self._steps_in(match.minutes * 60)
        # The example has 500 warm-up steps, a small share of its training.
        self.rates = get_scheduler("cosine", self.optimizer, None, min(500, steps // 10), steps)
        self.average = EMAModel(parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.batches = match.loader([transforms.Normalize([0.5], [0.5])], 0)

    def _steps_in(self, seconds: float) -> int:
        """Estimate how many steps fit in the time, by timing forward and backward passes of a copy of the network.

        The example needs no estimate: it trains for a fixed number of epochs.
        """
        shape = self.match.settings.optimizer.batch_size, *self.match.spec.space.shape
        clean, network = torch.randn(shape, device=self.match.device), copy.deepcopy(self.network)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            network(clean, torch.full((len(clean),), 0.5, device=clean.device), None).square().mean().backward()
            float(next(network.parameters()).detach().sum())  # Wait for the device.
            times.append(time.perf_counter() - started)
        return max(10, round(seconds / sorted(times)[2]))

    def step(self) -> None:
        clean, labels = (tensor.to(self.match.device) for tensor in next(self.batches))
        noise = torch.randn_like(clean)
        t = torch.randint(0, CHAIN, (len(clean),), device=clean.device)
        noisy = self.chain.add_noise(clean, noise, t)
        loss = F.mse_loss(self.network(noisy, share_of_chain(t), self.match.dropped(labels)), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        self.average.step(self.network.parameters())
        loss.item()

    @torch.no_grad()
    def sample(self, labels: Tensor, steps: int) -> Drawn:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        chain: Any = self.chain if steps == CHAIN else DDIMScheduler.from_config(self.chain.config)
        chain.set_timesteps(steps)
        shape, images = self.match.dataset.train.images.shape[1:], []
        with self._averaged() as network:
            for part in labels.to(self.match.device).split(SAMPLE_BATCH):
                noisy = torch.randn(len(part), *shape, device=self.match.device)
                for t in chain.timesteps:
                    noise = self.match.guided(network, noisy, t.to(part.device).expand(len(part)), part)
                    noisy = chain.step(noise, t, noisy).prev_sample
                images.append(self.match.spec.space.decode(noisy).cpu())
        return Drawn(torch.cat(images), steps * self.match.passes)

    @contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """Yield the network in eval mode with the averaged weights. Restore the raw weights at the end of the block."""
        parameters = list(self.network.parameters())
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield self.network.eval()
        finally:
            self.average.restore(parameters)
            self.network.train()


PEERS = {peer.name: peer for peer in (Ours, DenoisingDiffusionPytorch, Diffusers)}
