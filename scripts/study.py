"""Answer a question by a study: train and measure a grid of settings over several seeds, and compare them.

A study is defined in scripts/tasks/studies.py (a ready study) or in a YAML file. Its folder is studies/NAME in the
folder of the runs. The same command resumes a study that was stopped, and does not repeat finished trainings.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import Annotated

import yaml

from models.errors import UserError
from models.places import experiments_dir
from models.ranges import Range
from scripts.cli.arguments import parse_flags
from scripts.cli.command import quick_imports, run_command
from scripts.tasks.studies import STUDIES, describe_studies, find_study
from scripts.tasks.study_plan import MOST_CELLS, Tournament, as_yaml

DESCRIPTION = (
    "Answer a question by a study: train a grid of settings over several seeds, measure and compare. Prints the folder."
)


@dataclass(frozen=True)
class StudyFlags:
    """Settings of `study`."""

    name: str | None = None
    """Name of a ready study, or a .yaml file with a study. Without a name, the ready studies are listed."""
    show: bool = False
    """Print the study as YAML and train nothing. An edited copy can be run with --name FILE.yaml."""
    runs: tuple[str, ...] = ()
    """Trained runs, for the study 'samplers' only. Default: the shipped flows of MNIST and Fashion-MNIST."""
    jobs: Annotated[int, Range(1)] | None = None
    """Trainings that run in parallel. Default: one for each GPU, or 1 on a CPU. The study 'samplers' trains nothing."""
    yes: bool = False
    """Run a study from a .yaml file even if it has more than 200 measurements (grid cells times seeds)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder with the folder studies/. The variable EXPERIMENTS_DIR sets its default."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, StudyFlags(), "study", DESCRIPTION)
    if flags.name is None:
        if flags.show:
            raise UserError("`show` needs a study", "name it with `name`")
        print(describe_studies())
        return
    name, study = find_study(flags.name)
    if isinstance(study, Tournament):
        if flags.jobs is not None:
            raise UserError(f"`jobs` {flags.jobs}: the study {name} trains nothing", "leave it out")
        if flags.show:
            raise UserError(f"`name` {name}: this study has no YAML; its settings are in scripts/tasks/studies.py")
        with quick_imports():
            from scripts.tasks.studying import run_samplers

        print(run_samplers(name, study, flags))
        return
    if flags.runs:
        raise UserError(f"`runs`: the study {name} takes no trained runs, only `name samplers` does", "leave it out")
    if flags.show:
        print(yaml.safe_dump(as_yaml(study), sort_keys=False, allow_unicode=True, width=100), end="")
        return
    cells = len(study.cells) * len(study.seeds)
    if cells > MOST_CELLS and name not in STUDIES and not flags.yes:
        message = f"the study {name} has {cells} measurements (cells times seeds), more than {MOST_CELLS}"
        raise UserError(message, "make its grid smaller", "run them all with `yes`")
    study.check(flags.data_root)
    with quick_imports():
        from scripts.tasks.studying import run_study

    print(run_study(name, study, flags))


if __name__ == "__main__":
    run_command(main)
