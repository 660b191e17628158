"""Draw alpha(t), sigma(t) and log-SNR(t) of noise schedules in one picture."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass
from pathlib import Path

from models.errors import UserError
from models.places import experiments_dir
from models.ranges import NonNegativeInt
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.early import check_writable
from scripts.cli.flags import BetasName, PictureFormat, ScheduleName
from scripts.cli.signatures import names_in

POINTS = 1001
DESCRIPTION = "Draw noise schedules. Prints the picture's path."


@dataclass(frozen=True)
class ScheduleFlags:
    """Settings of `visualize_schedules`."""

    schedules: tuple[ScheduleName, ...] = names_in("models.diffusion.noise_schedules", "NOISE_SCHEDULES")
    """Schedules to draw."""
    timesteps: NonNegativeInt = 1000
    """Length T of the chains; 0 draws the continuous schedules."""
    chain_betas: BetasName = "rescaled"
    """Betas of linear, quadratic and sigmoid chains, as for train_ddpm."""
    zero_terminal_snr: bool = False
    """Rescale the schedules so that the last step is pure noise."""
    format: PictureFormat | None = None
    """Format of the picture. Default: the suffix of --out, or png."""
    out: str | None = None
    """File to write. Its folder must exist. Default: noise_schedules.png (or --format) in EXPERIMENTS_DIR."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ScheduleFlags(), "visualize_schedules", DESCRIPTION)
    if not flags.schedules:
        raise UserError("`schedules`: name one or more")
    path = _path(flags)
    import torch

    from models.diffusion.noise_schedules import build_noise_schedule
    from models.drawing.curves import draw_schedule_curves

    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    curves = {}
    for name in flags.schedules:
        steps = None if name == "flow" else flags.timesteps or None
        schedule = build_noise_schedule(name, steps, flags.zero_terminal_snr, flags.chain_betas)
        values = (t, schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t))
        curves[name] = tuple(value.numpy() for value in values)
    kind = f"chains of {flags.timesteps} steps" if flags.timesteps else "continuous forms"
    betas = ", published betas" if flags.chain_betas == "published" else ""
    ending = ", zero terminal SNR" if flags.zero_terminal_snr else ""
    draw_schedule_curves(curves, path, f"noise schedules, {kind}{betas}{ending}")
    print(path)


def _path(flags: ScheduleFlags) -> Path:
    """Return the file to write. Raises UserError if its suffix is not --format, or its folder does not exist."""
    if flags.out is None:
        from scripts.tasks.sampling import make_folder

        folder = Path(experiments_dir())
        make_folder(folder)
        return folder / f"noise_schedules.{flags.format or 'png'}"
    path = Path(flags.out)
    if flags.format is not None and path.suffix != f".{flags.format}":
        raise UserError(f"--out {path}: does not end in .{flags.format}; change --format, or leave it out")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {path}: its folder does not exist")
    check_writable(path)
    return path


if __name__ == "__main__":
    run_command(main)
