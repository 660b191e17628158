"""Train the models that come with the repository, and write their folders in models/pretrained again.

Run it after a change of a recipe, a network or a sampler. scripts/tasks/shipping.py lists the models.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field

from models.errors import UserError
from models.places import experiments_dir
from models.ranges import PositiveInt
from scripts.cli.arguments import parse_flags, split_at_dashes
from scripts.cli.command import quick_imports, run_command

DESCRIPTION = """Train the models of models/pretrained. Rewrite their cards and pages, and the pictures of README.md and
docs/tour.md. Prints the folder.

Flags after -- are for each training, as in: -- --max_steps 100"""


@dataclass(frozen=True)
class PretrainedFlags:
    """Settings of `pretrained`."""

    models: tuple[str, ...] = ()
    """Names of the models to make, such as mnist or mnist-vae. Default: all."""
    trained: bool = False
    """Train nothing. Take the newest finished run of each model, or its shipped weights if it has no such run."""
    num_images: PositiveInt | None = None
    """Number of generated images to measure. Default: the number of test images."""
    classification_accuracy: bool = True
    """Also measure the classification accuracy score, as evaluate does. Takes minutes for each row of a card."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder of the runs and evaluations. The variable EXPERIMENTS_DIR sets its default."""


def main(argv: list[str]) -> None:
    own, words = split_at_dashes(argv)
    flags = parse_flags(own, PretrainedFlags(), "pretrained", DESCRIPTION)
    if flags.trained and words:
        raise UserError("--trained trains nothing: leave out the flags after --")
    with quick_imports():
        from scripts.tasks.shipping import make_models
    make_models(flags, words)


if __name__ == "__main__":
    run_command(main)
