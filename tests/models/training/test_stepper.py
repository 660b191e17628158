"""A training step is a plan and a computation: what a recorded CUDA graph needs, checked without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from models import devices
from models.diffusion.losses import LossWeights
from models.diffusion.noise_schedules import NoiseLevel
from models.errors import UserError
from models.optim import AdamW, Muon
from models.randomness import StepRandomness
from models.runs import checkpoints
from models.runs.run import Run
from models.training.loop import AVERAGE_EVERY, Trainer
from models.training.plan import PlanBuffer
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import LATENT, AutoencoderFlags, TrainFlags
from scripts.cli.student_flags import StudentFlags
from scripts.tasks.autoencoding import prepare_autoencoder
from scripts.tasks.denoising import prepare_denoiser
from scripts.tasks.distilling import prepare_student
from scripts.tasks.training import recording_obstacle, resolve_flags

SMALL = ("--device", "cpu", "--batch_size", "8", "--max_steps", "50", "--no-tensorboard", "--eval_images", "8")
RANDOM = ("--accumulate", "2", "--network.dropout", "0.2", "--label_drop", "0.3")
NETWORKS = {
    "unet": ("--network.width", "16", "--network.multipliers", "1", "2"),
    "dit": ("--network", "dit", "--network.width", "32", "--network.depth", "2"),
    "convnext": ("--network", "convnext", "--network.width", "16", "--network.multipliers", "1", "2"),
}
VAE = ("--network.width", "8", "--network.latent_shape", "2", "4", "4", "--no-umap", "--kl_warmup_steps", "10")

Build = Callable[..., Trainer]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build the trainer of a task on the digits."""

    def trainer(task: str, *words: str) -> Trainer:
        argv = [*SMALL, *words, "--experiments_dir", str(tmp_path)]
        if task == "distill":
            flags = resolve_flags(parse_flags(argv, StudentFlags(), task, ""))
            prepared = prepare_student(flags, {})
        elif task == "train_vae":
            flags = resolve_flags(parse_flags([*argv, *VAE], AutoencoderFlags(), task, ""))
            prepared = prepare_autoencoder(flags, {})
        else:
            default = LATENT if task == "train_latent" else TrainFlags()
            prepared = prepare_denoiser(resolve_flags(parse_flags(argv, default, task, "")), {})
        return prepared.trainer(Run.create(tmp_path, task, "digits", None))

    return trainer


def saved(trainer: Trainer) -> str:
    """Save a checkpoint and return its path."""
    trainer.save()
    return str(checkpoints.resolve_checkpoint(trainer.run.folder))


@pytest.fixture
def latent(build: Build) -> Sequence[str]:
    """The flags of a small network in the latents of a small autoencoder."""
    return "--space.autoencoder", saved(build("train_vae")), "--network.patch_size", "1", *NETWORKS["unet"]


# -- two successive steps are the same computation -----------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Record each operation: its name, its arguments that are not tensors, and where its tensors lie.

    A tensor that was made within the step is known by the operation that made it, all others by their address.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[Any, ...]] = []
        self.made: dict[int, str] = {}

    def _place(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            address = value.untyped_storage().data_ptr()
            return self.made.get(address, address)
        return "a generator" if isinstance(value, torch.Generator) else value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "profiler":
            return func(*args, **(kwargs or {}))
        given, _ = tree_flatten((args, kwargs or {}))
        addresses = {tensor.untyped_storage().data_ptr() for tensor in given if isinstance(tensor, Tensor)}
        self.log.append((str(func), *(self._place(value) for value in given)))
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor) and (address := tensor.untyped_storage().data_ptr()) not in addresses:
                self.made[address] = f"result of operation {len(self.log)}"
        return result


def operations(trainer: Trainer) -> list[tuple[Any, ...]]:
    """Return the operations of the next step's computation. Its plan is made and sent before them."""
    stepper, recorded = trainer.stepper, Operations()
    computations = [recorder.computation for recorder in (*stepper.recorders, stepper.averaging)]

    def observed(computation: Callable[[], object]) -> Callable[[], None]:
        def compute() -> None:
            with recorded:
                computation()

        return compute

    for recorder, computation in zip((*stepper.recorders, stepper.averaging), computations, strict=True):
        recorder.computation = observed(computation)
    trainer.train_step()
    trainer.average()
    for recorder, computation in zip((*stepper.recorders, stepper.averaging), computations, strict=True):
        recorder.computation = computation
    return recorded.log


def with_planned_rate(trainer: Trainer) -> Trainer:
    """Let the optimizer read the learning rate from the plan, as on a GPU."""
    for group in trainer.optimizer.param_groups:
        group["capturable"] = True
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_two_steps_of_a_denoiser_issue_the_same_operations(network: str, optimizer: str, build: Build) -> None:
    words = (*NETWORKS[network], *RANDOM, "--optimizer", optimizer, "--warmup_steps", "4")
    check_two_steps(with_planned_rate(build("train_ddpm", *words)))


@pytest.mark.parametrize("words", [(), ("--accumulate", "2")])
def test_two_steps_of_an_autoencoder_issue_the_same_operations(words: tuple[str, ...], build: Build) -> None:
    check_two_steps(with_planned_rate(build("train_vae", *words)))


def test_two_steps_in_latents_issue_the_same_operations(build: Build, latent: Sequence[str]) -> None:
    check_two_steps(with_planned_rate(build("train_latent", *latent)))


@pytest.mark.parametrize("evaluations", ["1", "2"])
def test_two_steps_of_a_student_issue_the_same_operations(evaluations: str, build: Build) -> None:
    """The teacher's sampling is not among them: it belongs to the plan."""
    teacher = saved(build("train_ddpm", *NETWORKS["dit"], "--prediction", "v"))
    words = ("--checkpoint", teacher, "--steps", "2", "--evaluations", evaluations, "--optimizer", "muon")
    check_two_steps(with_planned_rate(build("distill", *words)))


def check_two_steps(trainer: Trainer) -> None:
    for _ in range(AVERAGE_EVERY):  # these create the state of the optimizer and the memory of the plans
        trainer.train_step()
    first, second = operations(trainer), operations(trainer)
    assert len(first) == len(second) > 100
    for one, other in zip(first, second, strict=True):
        assert one == other


def test_a_number_that_changes_would_be_seen(build: Build) -> None:
    trainer = build("train_ddpm", *NETWORKS["unet"])  # the learning rate as a Python number
    for _ in range(3):
        trainer.train_step()
    assert operations(trainer) != operations(trainer)


# -- the computation asks the host for nothing ---------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("task", ["unet", "dit", "convnext", "train_vae"])
def test_the_computation_passes_on_the_meta_device(
    task: str, optimizer: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, whatever asks for a value of a tensor raises an error. The fused AdamW and autocast refuse this device."""
    words = ("--optimizer", optimizer, *NETWORKS.get(task, ()))
    stepper = build("train_vae" if task == "train_vae" else "train_ddpm", *words).stepper
    meta = torch.device("meta")
    stepper.take(0, 0.0)

    def noise(self: StepRandomness, shape: Sequence[int], stream: str = "noise") -> Tensor:
        return torch.empty(self.batch_size, *shape, device=meta)

    monkeypatch.setattr(StepRandomness, "noise", noise)
    monkeypatch.setattr(AdamW, "step", read_gradients)
    for module in ("models.diffusion.denoiser", "models.training.autoencoder_objective"):
        monkeypatch.setattr(f"{module}.in_autocast", lambda device, dtype: nullcontext())
    for module in (stepper.network, stepper.ema.network):
        module.to(meta)
    stepper.parameters = list(stepper.network.parameters())
    for name in ("found_inf", "norm", "sums"):
        setattr(stepper, name, getattr(stepper, name).to(meta))
    stepper.plan = {name: values.to(meta) for name, values in stepper.plan.items()}
    batches = cast(Any, stepper.batches)
    batches._images, batches._labels = batches._images.to(meta), batches._labels.to(meta)
    stepper.optimizer.state.clear()
    stepper._compute()
    stepper._update()
    stepper.ema.update(stepper.network, torch.zeros((), device=meta))
    assert stepper.norm.is_meta and all(p.is_meta for p in stepper.parameters)


def read_gradients(self: AdamW) -> None:
    """Stand in for the fused update: use all that it reads."""
    optimizer = cast(Any, self)
    for group in self.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.data.sub_(p.grad / optimizer.grad_scale * group["lr"] * (1 - optimizer.found_inf))


# -- the same weights as a plain step ------------------------------------------------------------------------------


def plain_step(trainer: Trainer, step: int, images: Tensor, labels: Tensor, optimizer: Any, average: nn.Module) -> None:
    """Train as the loop does, without plan, buffers and recording: the whole step in order, with new generators."""
    settings, objective, network = trainer.settings.optimizer, cast(Any, trainer.objective), trainer.network
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate(step, step / 50)
    cuts = [round(part * settings.batch_size / settings.accumulate) for part in range(settings.accumulate + 1)]
    for start, stop in pairwise(cuts):
        randomness = StepRandomness(trainer.settings.seed, step, settings.batch_size, start, stop, trainer.device)
        randomness.seed_dropout()
        if hasattr(objective.loss, "density"):
            model, loss = objective.model(network), objective.loss
            times = loss.density.draw(randomness.uniform("times"), model.noise_schedule)[start:stop]
            level: NoiseLevel = model.noise_schedule.level(times)
            weights: LossWeights = loss.weights(level, model.noise_schedule, model.denoiser.prediction)
            clean = objective.spec.space.draw(images[start:stop], randomness)
            dropped = randomness.uniform("labels")[start:stop] < loss.label_drop
            label = torch.where(dropped, loss.null_label, labels[start:stop])
            losses = loss.at(model.denoiser, clean, label, level, weights, loss.noise(randomness, clean.shape[1:]))
        else:
            clean = images[start:stop].float() * (2 / 255) - 1
            coded = network(clean, randomness.noise(objective.latent_shape))
            losses, _, _ = objective.loss(coded, clean, objective.loss.kl_weight * min(1.0, step / 10))
        (losses.sum() / settings.batch_size).backward()
    norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    optimizer.grad_scale = (norm / settings.clip).clamp(min=1).float()
    optimizer.found_inf = torch.zeros((), dtype=torch.float32)
    optimizer.step()
    optimizer.zero_grad()
    if (step + 1) % AVERAGE_EVERY == 0:
        updates = (step + 1) // AVERAGE_EVERY - 1
        decay = min(0.5 ** ((AVERAGE_EVERY / 50) / settings.ema), (1 + updates) / (10 + updates))
        for averaged, weight in zip(average.parameters(), network.parameters(), strict=True):
            averaged.data.lerp_(weight.data, 1 - decay)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("train_ddpm", (*NETWORKS["unet"], *RANDOM)),
        ("train_ddpm", (*NETWORKS["dit"], "--label_drop", "0.3")),
        ("train_ddpm", (*NETWORKS["convnext"], "--accumulate", "3", "--loss", "huber", "--weighting", "min_snr")),
        ("train_vae", ("--accumulate", "2")),
        ("train_latent", ("--times", "logit_normal", "--label_drop", "0.3")),
    ],
    ids=["unet", "dit", "convnext", "vae", "latent"],
)
def test_fifty_steps_give_the_weights_of_a_plain_loop(
    task: str, words: tuple[str, ...], build: Build, latent: Sequence[str]
) -> None:
    words = (*words, *latent) if task == "train_latent" else words
    ours, plain = build(task, *words), build(task, *words)
    average = plain.ema.network
    for step in range(50):
        images, labels = cast(Any, plain.batches).at(step)
        plain_step(plain, step, images, labels, plain.optimizer, average)
        ours.train_step()
    for ours_network, plain_network in ((ours.network, plain.network), (ours.ema.network, average)):
        for (name, value), expected in zip(
            ours_network.state_dict().items(), plain_network.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), name


class PlainMuon:
    """Muon as written down, one matrix after another, and AdamW for the other weights: what our optimizer batches."""

    def __init__(self, optimizer: Muon) -> None:
        self.momenta: dict[nn.Parameter, Tensor] = {}
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        cast(Any, optimizer).step_matrices = self.step_matrices
        self.grad_scale = self.found_inf = torch.zeros(())

    @torch.no_grad()
    def step_matrices(self, group: dict[str, Any]) -> None:
        a, b, c = Muon.coefficients
        for p in (p for p in group["params"] if p.grad is not None):
            gradient = p.grad.flatten(1) / self.grad_scale
            momentum = self.momenta.setdefault(p, torch.zeros_like(gradient))
            momentum.copy_(0.95 * momentum + 0.05 * gradient)
            direction = 0.05 * gradient + 0.95 * momentum
            update = direction / (direction.norm() + 1e-7)
            for _ in range(5):
                gram = update @ update.T
                update = a * update + (b * gram + c * gram @ gram) @ update
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(group["lr"] * 0.2 * max(update.shape) ** 0.5 * update.view_as(p))

    def step(self) -> None:
        cast(Any, self.optimizer).grad_scale, self.optimizer.found_inf = self.grad_scale, self.found_inf
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


@pytest.mark.parametrize(("precision", "steps", "tolerance"), [("float64", 50, 1e-9), ("float32", 1, 1e-6)])
def test_steps_of_muon_give_the_weights_of_a_plain_loop(
    precision: str, steps: int, tolerance: float, build: Build
) -> None:
    """Batched products round differently from single ones, and Newton-Schulz steps amplify that."""
    devices.prepare_device(torch.device("cpu"), precision)
    words = (*NETWORKS["unet"], *RANDOM, "--optimizer", "muon", "--precision", precision)
    ours, plain = build("train_ddpm", *words), build("train_ddpm", *words)
    before = [parameter.clone() for parameter in ours.network.parameters()]
    optimizer = PlainMuon(cast(Muon, plain.optimizer))
    for step in range(steps):
        images, labels = cast(Any, plain.batches).at(step)
        plain_step(plain, step, images, labels, optimizer, plain.ema.network)
        ours.train_step()
    assert len(optimizer.momenta) > 5
    for value, expected, first in zip(ours.network.parameters(), plain.network.parameters(), before, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)
        assert steps == 1 or not value.equal(first)


# -- the buffer of plans -------------------------------------------------------------------------------------------


def test_plans_of_one_layout_lie_at_the_same_addresses() -> None:
    buffer = PlanBuffer(torch.device("cpu"))
    plans = [
        {"rows": torch.arange(5) + k, "flipped": torch.tensor([k > 1] * 5), "rate": torch.tensor(0.1 * k).double()}
        for k in range(4)
    ]
    places = set()
    for plan in plans:
        sent = buffer.send(plan)
        assert sent["rows"].equal(plan["rows"]) and sent["flipped"].equal(plan["flipped"])
        assert sent["rate"].dtype == torch.float32 and sent["rate"] == plan["rate"].float()
        places.add(tuple(values.data_ptr() for values in sent.values()))
    assert len(places) == 1
    short = buffer.send({name: values[:3] if values.dim() else values for name, values in plans[0].items()})
    assert short["rows"].tolist() == [0, 1, 2] and buffer.send(plans[1])["rows"].equal(plans[1]["rows"])


def test_a_step_leaves_no_new_tensor_in_the_plan(build: Build) -> None:
    trainer = build("train_ddpm", *NETWORKS["unet"], "--accumulate", "2")
    trainer.train_step()
    before = tree_map_only(Tensor, lambda tensor: tensor.data_ptr(), trainer.stepper.plan)
    trainer.train_step()
    assert tree_map_only(Tensor, lambda tensor: tensor.data_ptr(), trainer.stepper.plan) == before


# -- what cannot be recorded -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "processes", "obstacle"),
    [
        ((), 1, None),
        (("--accumulate", "2"), 1, None),
        (("--accumulate", "3"), 1, "unequal parts"),
        (("--coupling", "optimal"), 1, "on the CPU"),
        ((), 2, "several processes"),
        (("--graph", "off"), 1, "graph is off"),
    ],
)
def test_what_cannot_be_recorded_on_a_gpu(
    words: tuple[str, ...], processes: int, obstacle: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.processes.world_size", lambda: processes)
    flags = parse_flags([*SMALL, *words], TrainFlags(), "train_ddpm", "")
    flags = replace(flags, run=replace(flags.run, device="cuda"))
    reason = recording_obstacle(flags)
    assert reason is None if obstacle is None else obstacle in str(reason)
    if obstacle not in (None, "graph is off"):
        with pytest.raises(UserError, match=str(obstacle)):
            recording_obstacle(replace(flags, run=replace(flags.run, graph="on")))
