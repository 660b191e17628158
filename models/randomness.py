"""Random numbers as functions of (seed, step) in training and of (seed, image index) in sampling.

Every rank draws the random numbers of the global batch and takes its slice. The number of ranks therefore changes a run
only through rounding and dropout.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import pi, prod

import torch
from torch import Tensor

Draw = Callable[[Sequence[int]], Tensor]

# Name of the random generator of `image_draw`, for protocol cards.
IMAGE_NOISE = "philox4x32-10, box-muller"
MASK = 2**32 - 1  # the low 32 bits of a word
PHILOX_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
PHILOX_INCREMENTS = 0x9E3779B9, 0xBB67AE85


def derive_seed(*parts: int | str) -> int:
    """Hash integers and strings to a 63-bit seed."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass
class StepRandomness:
    """Random numbers of one training step, for the rows start:stop of the global batch. Its streams are independent.

    rows: the indices start..stop-1 on the device; None for the whole batch. generators: one for each stream that is
    drawn on the device. `move_to` seeds them again, so that a recorded CUDA graph draws new numbers at each replay.
    """

    seed: int
    step: int
    batch_size: int
    start: int
    stop: int
    device: torch.device
    rows: Tensor | None = None
    generators: dict[str, torch.Generator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows is None and self.stop - self.start < self.batch_size:
            self.rows = torch.arange(self.start, self.stop, device=self.device)

    def move_to(self, step: int, start: int, stop: int) -> None:
        """Move to the rows start:stop of another step, and seed all generators for it, including the one of dropout.

        The tensor `rows` is not changed: `Stepper.take` fills it from the step's plan.
        """
        self.step, self.start, self.stop = step, start, stop
        for stream, generator in self.generators.items():
            generator.manual_seed(self._seed(stream))
        self.seed_dropout()

    def _seed(self, stream: str) -> int:
        return derive_seed(self.seed, self.step, stream)

    def uniform(self, stream: str) -> Tensor:
        """Draw a number in [0, 1) for every image of the global batch: (batch_size,), float64, on the CPU."""
        generator = torch.Generator().manual_seed(self._seed(stream))
        return torch.rand(self.batch_size, dtype=torch.float64, generator=generator)

    def part(self, values: Tensor) -> Tensor:
        """Return the rows start:stop of `values`, which has one row per image of the global batch."""
        return values[self.start : self.stop]

    def noise(self, shape: Sequence[int], stream: str = "noise") -> Tensor:
        """Draw Gaussian noise for the rows start:stop: (stop - start, *shape), float32, on the training device.

        A second call for the same stream draws new numbers, until `move_to` seeds the stream again.
        """
        if stream not in self.generators:
            self.generators[stream] = torch.Generator(self.device).manual_seed(self._seed(stream))
        generator = self.generators[stream]
        noise = torch.randn(self.batch_size, *shape, generator=generator, device=self.device)
        return noise if self.rows is None else noise.index_select(0, self.rows)

    def seed_dropout(self) -> None:
        """Seed torch's global generator, which dropout uses, by the step and the first row."""
        seed = derive_seed(self.seed, self.step, self.start, "dropout")
        # torch.manual_seed seeds the generators of all devices, which takes 0.3 ms.
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        elif self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)
        else:
            torch.manual_seed(seed)


def image_draw(seed: int, indices: Sequence[int], device: torch.device) -> Draw:
    """Return draw(shape), which draws Gaussian noise for the images with these indices. shape[0] is their number.

    Draw k of an image depends on (seed, index, k) alone, not on the device, the batch size or the other images.
    """
    # torch's CPU generator uses only 32 bits of a seed. Among 100,000 images, two would probably get the same noise.
    at = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
    images, draws = torch.tensor(indices, dtype=torch.int64, device=at), count()

    def draw(shape: Sequence[int]) -> Tensor:
        assert shape[0] == len(images)
        noise = counted_normals(seed, images, next(draws), prod(shape[1:]))
        return noise.view(*shape).to(device, torch.get_default_dtype())

    return draw


def counted_normals(seed: int, images: Tensor, draw: int, size: int) -> Tensor:
    """Return draw number `draw` of each image: (N, size) float64 standard normals, by Philox and Box-Muller.

    seed: the 64-bit key. images: (N,) int64, indices of the images. The counter is (index of a block of four numbers,
    draw, low half of the image index, high half). Every number is a function of key and counter alone.
    """
    blocks = torch.arange(-(-size // 4), device=images.device)
    low, high = images[:, None] & MASK, images[:, None] >> 32
    words = philox((blocks, torch.full_like(low, draw), low, high), (seed & MASK, seed >> 32 & MASK))
    pairs = []
    for radius, angle in (words[:2], words[2:]):
        length = (-2 * ((radius + 1).double() * 2.0**-32).log()).sqrt()
        turn = angle.double() * (2 * pi * 2.0**-32)
        pairs += [length * turn.cos(), length * turn.sin()]
    return torch.stack(pairs, dim=2).flatten(1)[:, :size]


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Return the four words of Philox4x32-10 (Salmon et al. 2011, figure 2 and table 2) for 128-bit counters.

    counter: four int64 tensors of 32-bit words that broadcast against each other. The result depends on integers
    alone, so it is the same on every device. A product of two words has 64 bits; int64 wraps around and keeps all bits.
    """
    zero, one, two, three = counter
    for number in range(10):
        keys = [(word + number * increment) & MASK for word, increment in zip(key, PHILOX_INCREMENTS, strict=True)]
        first, second = (word * factor for word, factor in zip((zero, two), PHILOX_MULTIPLIERS, strict=True))
        zero, one, two, three = (
            (second >> 32 & MASK) ^ one ^ keys[0],
            second & MASK,
            (first >> 32 & MASK) ^ three ^ keys[1],
            first & MASK,
        )
    return [zero, one, two, three]
