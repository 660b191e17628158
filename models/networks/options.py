"""Checks of network options, shared by the networks: each failure is one line that names option, value and way out."""

from collections.abc import Sequence

from models.errors import UserError
from models.networks.conditioning import Conditioning


def at_least(minimum: int, **options: int | Sequence[int]) -> None:
    """Raises UserError for the first option that is, or holds, a number under the minimum, or that is empty."""
    for name, value in options.items():
        numbers = [value] if isinstance(value, int) else value
        if not numbers:
            raise UserError(f"network option {name}: is empty: give at least one number")
        if any(number < minimum for number in numbers):
            raise UserError(f"network option {name}: {_shown(value)} is too small: use at least {minimum}")


def odd(**options: int) -> None:
    """Raises UserError for the first option that is an even number."""
    for name, value in options.items():
        if value % 2 == 0:
            raise UserError(f"network option {name}: {value} is even: use {value - 1} or {value + 1}")


def check_choice(choices: Sequence[str], **options: str) -> None:
    """Raises UserError for the first option that is none of the choices."""
    for name, value in options.items():
        if value not in choices:
            raise UserError(f"network option {name}: there is no {value!r}: use {' or '.join(choices)}")


def dropout_share(dropout: float) -> None:
    """Raises UserError outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise UserError(f"network option dropout: {dropout} is not a share: use at least 0 and less than 1")


def heads_divide(heads: int, channels: int, place: str) -> None:
    """Raises UserError where the channels cannot be dealt out to the heads evenly."""
    if channels % heads:
        raise UserError(
            f"network option heads: {heads} does not divide the {channels} channels of {place}: "
            f"use one of {', '.join(str(n) for n in range(1, channels + 1) if channels % n == 0 and n <= 64)}"
        )


def levels_fit(shape: tuple[int, int, int], patch_size: int, levels: int) -> None:
    """Raises UserError where halving, rounded up, leaves a level less than 2 pixels high or wide."""
    height, width = (-(-size // patch_size) for size in shape[1:])
    for level in range(levels):
        if min(height, width) < 2:
            raise UserError(
                f"network options multipliers and patch_size: level {level} of {levels} would see a "
                f"{shape[1]}x{shape[2]} image as {height}x{width} at patch_size {patch_size}, and a level needs 2x2: "
                "use fewer multipliers or a smaller patch_size"
            )
        height, width = -(-height // 2), -(-width // 2)


def levels_exist(chosen: Sequence[int], levels: int) -> None:
    """Raises UserError for an attention level that is not one of 0..levels-1."""
    for level in chosen:
        if not 0 <= level < levels:
            raise UserError(
                f"network option attention_levels: there is no level {level} with {levels} multipliers: "
                f"use levels from 0 to {levels - 1}, or none"
            )


def no_tokens(conditioning: Conditioning, network: str, way_out: str) -> None:
    """Raises UserError for a conditioning by tokens, which a network without attention cannot read."""
    if conditioning.tokens:
        raise UserError(
            f"network option conditioning: {type(conditioning).__name__} gives {conditioning.tokens} tokens, and "
            f"{network} has no attention to read them: {way_out}, or use conditioning embedding"
        )


def _shown(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else " ".join(map(str, value))
