"""Settings of a training that is measured, for benchmarks and records."""

from collections.abc import Sequence

from models import devices
from models.errors import UserError
from scripts.cli.arguments import read_ahead
from scripts.cli.flags import FLOW, TrainFlags
from scripts.cli.settings import read_training
from scripts.tasks.denoising import complete
from scripts.tasks.training import check_batch, resolve_flags


def settings_to_measure(words: Sequence[str]) -> TrainFlags:
    """Return the complete flags of a new `train_flow` run. Raises UserError for --resume, --init_from and bad flags."""
    refusal = UserError("--resume and --init_from continue an earlier run; leave them out to measure a new run")
    if {"resume", "init_from"} & read_ahead(words).keys():
        raise refusal
    request = read_training(words, "train_flow", FLOW, "")
    if request.flags.run.init_from is not None:  # from a --config file
        raise refusal
    request = request.on(devices.pick_device(request.flags.run.device).type)
    settings = complete(resolve_flags(request.flags))
    check_batch(settings)
    return settings
