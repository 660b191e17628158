"""Checks that relate several options of a network, or an option and the image. Each raises UserError."""

from collections.abc import Sequence

from models.errors import UserError


def heads_divide(heads: int, channels: int, owner: str) -> None:
    """Raise UserError if the heads do not divide the channels. owner: name of the layer, for the message."""
    if channels % heads:
        divisors = ", ".join(str(number) for number in range(1, min(channels, 64) + 1) if channels % number == 0)
        raise UserError(
            f"`network.heads` {heads}: does not divide the {channels} channels of {owner}",
            f"use one of {divisors} for `network.heads`",
        )


def levels_fit(shape: tuple[int, int, int], patch_size: int, levels: int) -> None:
    """Raise UserError if there is no level, or if a level is less than 2 pixels high or wide.

    shape: (C, H, W) of one example. Level 0 has the size of the image divided by patch_size. Each further level has
    half the size of the level above. Sizes are rounded up.
    """
    if levels == 0:
        raise UserError("`network.multipliers`: must have at least one number")
    height, width = (-(-size // patch_size) for size in shape[1:])
    for level in range(levels):
        if min(height, width) < 2:
            raise UserError(
                f"`network.patch_size` {patch_size}: images of {shape[1]}x{shape[2]} are reduced to {height}x{width}"
                f"{f' at level {level}' if levels > 1 else ''}, but at least 2x2 is needed",
                *(["use a smaller `network.patch_size`"] if patch_size > 1 else []),
                *(["use fewer `network.multipliers`"] if level > 0 else []),
            )
        height, width = -(-height // 2), -(-width // 2)


def levels_exist(chosen: Sequence[int], levels: int) -> None:
    """Raise UserError if an attention level is not below the number of levels."""
    if any(level >= levels for level in chosen):
        raise UserError(
            f"`network.attention_levels` {' '.join(map(str, chosen))}: must be below {levels}, the number of levels",
            "use more `network.multipliers`",
        )


def no_tokens(conditioning: str, tokens: int, network: str, *ways_out: str) -> None:
    """Raise UserError if the conditioning has tokens. network: name of a network without attention, for the message."""
    if tokens:
        message = f"passes the label as {tokens} tokens, and {network} has no attention to read them"
        way_out = "use `network.conditioning embedding`"
        raise UserError(f"`network.conditioning` {conditioning}: {message}", *ways_out, way_out)
