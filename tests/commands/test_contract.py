"""Everything goes with everything, or is refused in one line: combinations drawn from the tables themselves.

A drawn setting either trains, is saved, read back from its checkpoint and sampled, or one of the reasons below holds,
and then it is refused before the first step. A row added to a table is tried with all the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.digits import Digits
from data.images import ImageData, Split
from models.diffusion.chains import BETAS, CHAIN_BETAS
from models.diffusion.losses import DISTANCES, WEIGHTINGS
from models.diffusion.noise import COUPLINGS, INITIAL_NOISES
from models.diffusion.noise_schedules import NOISE_SCHEDULES, build_noise_schedule
from models.diffusion.predictions import PREDICTIONS
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import DENSITIES, GRIDS
from models.errors import UserError
from models.generation import Sampling, choose_labels, generate
from models.model import Model, load_model
from models.runs import checkpoints
from models.runs.run import Run
from models.spaces import Space
from models.variants import CONDITIONINGS, NETWORKS, SPACES
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import AutoencoderFlags, ModelFlags, SamplerFlags, SamplerOptions, TrainFlags
from scripts.tasks import autoencoding
from scripts.tasks.denoising import assemble, complete
from scripts.tasks.sampling import open_sampling
from scripts.tasks.training import Prepared, resolve_flags
from tests.commands.tasks import TINY_VAE

pytestmark = pytest.mark.slow

# What makes a network small; one that is not here is built as it is by default.
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 8, "patch_size": 1},
    "convnext": {"width": 8, "patch_size": 1},
    "dit": {"width": 16, "depth": 1, "heads": 2, "patch_size": 2},
}
QUICK = {"batch_size": 8, "max_steps": 2, "warmup_steps": 1, "eval_images": 8, "num_samples": 4, "steps": 1}
STOCHASTIC = {"ddpm", "dpmpp_2m_sde", "sde"}
COUNT = 5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """One combination; every field is a flag, of training up to `accumulate`, of sampling from there."""

    prediction: str
    noise_schedule: str
    timesteps: int
    zero_terminal_snr: bool
    chain_betas: str
    times: str
    loss: str
    weighting: str
    initial_noise: str
    coupling: str
    space: str
    network: str
    conditioning: str
    conditional: bool
    label_drop: float
    accumulate: int
    sampler: str
    grid: str
    steps: int
    eta: float | None
    clip: bool
    guidance_scale: float
    guidance_rescale: float

    @property
    def training(self) -> dict[str, Any]:
        """The flags of training."""
        names = [field.name for field in fields(self)]
        config = {name: getattr(self, name) for name in names[: names.index("accumulate") + 1]}
        config["network.conditioning"] = config.pop("conditioning")
        return {**config, **{f"network.{key}": value for key, value in SMALL.get(self.network, {}).items()}}

    @property
    def sampling(self) -> SamplerFlags:
        names = [field.name for field in fields(self)]
        values = {name: getattr(self, name) for name in names[names.index("sampler") :]}
        return SamplerFlags(options=SamplerOptions(eta=values.pop("eta")), **values)


def one_of(table: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(table))


SETTINGS = st.builds(
    Setting,
    prediction=one_of(PREDICTIONS),
    noise_schedule=one_of(tuple(NOISE_SCHEDULES)),
    timesteps=one_of((0, 1, 2, 3, 10)),
    zero_terminal_snr=st.booleans(),
    chain_betas=one_of(CHAIN_BETAS),
    times=one_of(DENSITIES),
    loss=one_of(DISTANCES),
    weighting=one_of(WEIGHTINGS),
    initial_noise=one_of(INITIAL_NOISES),
    coupling=one_of(COUPLINGS),
    space=one_of(SPACES.names()),
    network=one_of(NETWORKS.names()),
    conditioning=one_of(CONDITIONINGS.names()),
    conditional=st.booleans(),
    label_drop=one_of((0.0, 0.1, 1.0)),
    accumulate=one_of((1, 2)),
    sampler=one_of(SAMPLERS),
    grid=one_of(GRIDS),
    steps=one_of((1, 2, 3)),
    eta=one_of((None, 0.0, 0.5)),
    clip=st.booleans(),
    guidance_scale=one_of((1.0, 0.0, 2.5)),
    guidance_rescale=one_of((0.0, 0.7)),
)


def reasons(chosen: Setting) -> list[str]:
    """Words of the refusals of which a setting should meet one; none if it should work."""
    chain = chosen.timesteps > 0
    no_chain = chain and chosen.noise_schedule == "flow"
    no_betas = chosen.chain_betas == "published" and not (chain and chosen.noise_schedule in BETAS)
    steps = None if no_chain else chosen.timesteps or None
    betas = "rescaled" if no_betas else chosen.chain_betas
    schedule = build_noise_schedule(chosen.noise_schedule, steps, chosen.zero_terminal_snr, betas)
    tokens = CONDITIONINGS.find(chosen.conditioning).tokens > 0
    random_steps = chosen.sampler in STOCHASTIC or bool(chosen.eta)
    possible = {
        "has no betas": no_betas,
        "flow schedule is continuous": no_chain,
        "times discrete: needs a chain": chosen.times == "discrete" and not chain,
        "prediction eps: the schedule ends in pure noise": chosen.prediction == "eps"
        and schedule.alpha(torch.ones(())) < 1e-8,
        "has no attention": chosen.network == "convnext" and tokens,
        "needs the whole batch at once": chosen.coupling != "independent" and chosen.accumulate > 1,
        "the length of the chain": chain and chosen.steps > chosen.timesteps,
        "does not have it": chosen.eta is not None and "eta" not in SAMPLERS[chosen.sampler].options,
        "adds Gaussian noise": chosen.initial_noise != "gaussian" and random_steps and chosen.steps > 1,
        "without labels to guide by": chosen.guidance_scale != 1 and not chosen.conditional,
        "no unconditional estimate": chosen.guidance_scale != 1 and chosen.label_drop == 0,
    }
    return [words for words, holds in possible.items() if holds]


def few_digits() -> ImageData:
    whole = Digits().load(Path())
    train, test = (Split(split.images[:40], split.labels[:40]) for split in (whole.train, whole.test))
    return replace(whole, train=train, test=test)


class Workshop:
    """Builds, trains and samples settings in one folder, in which the autoencoder of the latents lies too."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dataset = folder, few_digits()
        argv = [*TINY_VAE, "--experiments_dir", str(folder)]
        flags = resolve_flags(parse_flags(argv, AutoencoderFlags(), "train_vae", ""))
        path = self.train(autoencoding.prepare_autoencoder(flags, stored={}), 3, "train_vae")
        self.space_options = {"latents": {"autoencoder": str(path), "encoded": "none"}}

    def prepare(self, chosen: Setting) -> Prepared:
        options = self.space_options.get(chosen.space, {})
        config = {**QUICK, **chosen.training, **{f"space.{key}": value for key, value in options.items()}}
        argv = ["--no-tensorboard", "--experiments_dir", str(self.folder)]
        flags = parse_flags(argv, TrainFlags(), "train_ddpm", "", config)
        return assemble(complete(resolve_flags(flags)), self.dataset)

    def train(self, prepared: Prepared, steps: int, task: str = "train_ddpm") -> Path:
        """The checkpoint after some steps; raises FloatingPointError where a gradient is not finite."""
        trainer = prepared.trainer(Run.create(self.folder, task, "digits", None))
        for _ in range(steps):
            trainer.train_step()
        trainer.check()
        assert trainer.log.loss_sums.isfinite().all()
        trainer.average()
        trainer.save()
        return checkpoints.resolve_checkpoint(trainer.run.folder)

    def open(self, path: Path, chosen: Setting) -> tuple[Model, Sampling]:
        model = load_model(path, "ema", CPU)
        return model, open_sampling(chosen.sampling, ModelFlags(device="cpu", precision="float32"), model)


@dataclass
class Finite:
    """A space that insists on finite images."""

    space: Space

    def __getattr__(self, name: str) -> Any:
        return getattr(self.space, name)

    def decode(self, clean: Tensor) -> Tensor:
        assert clean.isfinite().all()
        return self.space.decode(clean)


def images_of(model: Model, sampling: Sampling, batch_size: int) -> Tensor:
    labels, space = choose_labels(model, None, COUNT), cast(Any, Finite(model.space))
    checked = replace(model, spec=replace(model.spec, space=space))
    batches = generate(checked, sampling, COUNT, labels, 3, batch_size, 2)
    return torch.cat([batch.images for batch in batches])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"))


def examples(count: int) -> Callable[[Any], Any]:
    """The same ones at every run, and as many; one that fails is shown as drawn, since shrinking takes minutes."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=(HealthCheck.filter_too_much, HealthCheck.too_slow),
    )


@examples(60)
@given(chosen=SETTINGS.filter(lambda chosen: not reasons(chosen)))
def test_what_is_not_refused_trains_and_samples(workshop: Workshop, chosen: Setting) -> None:
    path = workshop.train(workshop.prepare(chosen), 2)
    tensors, _ = checkpoints.load_checkpoint(path)
    assert all(value.isfinite().all() for value in tensors.values())
    model, sampling = workshop.open(path, chosen)
    images = images_of(model, sampling, COUNT)
    assert images.shape == (COUNT, 1, 8, 8) and images.dtype == torch.uint8
    assert torch.equal(images_of(model, sampling, COUNT), images)
    apart = images_of(model, sampling, 2).int() - images.int()
    assert apart.abs().max() <= 1  # sums over another number of images may be rounded otherwise


@examples(60)
@given(chosen=SETTINGS.filter(reasons))
def test_what_is_refused_says_why_in_one_line(workshop: Workshop, chosen: Setting) -> None:
    with pytest.raises(UserError) as refused:
        workshop.open(workshop.train(workshop.prepare(chosen), 0), chosen)
    assert "\n" not in str(refused.value)
    assert any(words in str(refused.value) for words in reasons(chosen))
