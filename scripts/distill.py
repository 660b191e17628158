"""Distil a trained run: train a student that makes an image in one, two or four evaluations of the network."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from scripts.cli.command import quick_imports, run_command
from scripts.cli.settings import read_student
from scripts.cli.student_flags import StudentFlags

DESCRIPTION = """Train a student that needs 1, 2 or 4 network evaluations for an image. Prints the run folder.

The teacher is a trained run. Its sampler adds no noise, so it maps each initial noise to one image. The student
learns this map."""


def main(argv: list[str]) -> None:
    request = read_student(argv, StudentFlags(), DESCRIPTION)
    with quick_imports():
        from scripts.tasks.distilling import prepare_student
        from scripts.tasks.training import run_training

    run_training(request, prepare_student)


if __name__ == "__main__":
    run_command(main, parallel=True)
