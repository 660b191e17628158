"""Tests of slurm.sh with a fake Slurm: the options of sbatch, and a job of two nodes that is stopped and resumed.

Both nodes are this machine. Each runs the real torchrun and the real training.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.runs import checkpoints
from tests.commands.fake_repository import eventually, path_without
from tests.commands.tasks import REPOSITORY, TINY, status_of

pytestmark = pytest.mark.slow

# Each fake command writes its arguments to a file.
TOOLS = {
    "sbatch": 'printf "%s\\n" "$@" >"$FAKE/sbatch"; echo 7001',
    "scontrol": """printf "%s " "$@" >>"$FAKE/scontrol"
[[ $1 != show ]] || { echo localhost && sleep 0.2 && echo localhost; }""",
}
# Runs the command once per node. As with Slurm, a signal reaches every process, and a failing node ends the others.
SRUN = """
import os, signal, subprocess, sys, time
import psutil

(start,) = (index for index, word in enumerate(sys.argv) if word.startswith(".venv/"))
open(os.environ["FAKE"] + "/srun", "a").write(" ".join(sys.argv[1:start]) + "\\n")
nodes = [subprocess.Popen(sys.argv[start:]) for _ in range(int(os.environ["SLURM_JOB_NUM_NODES"]))]

def signal_all(number, frame=None):
    for process in psutil.Process().children(recursive=True):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass

signal.signal(signal.SIGTERM, signal_all)
while None in (codes := [node.poll() for node in nodes]) and not any(codes):
    time.sleep(0.02)
failed = [code for code in codes if code]
if failed and "--kill-on-bad-exit=1" in sys.argv[:start]:
    signal_all(signal.SIGKILL)
codes = [node.wait() for node in nodes]
sys.exit(abs((failed or codes)[0]))
"""


class Cluster:
    """Fake commands of Slurm in a folder that is first on PATH. folder: holds their files and the runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        tools = folder / "bin"
        tools.mkdir()
        for name, text in TOOLS.items():
            (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (tools / name).chmod(0o755)
        (tools / "srun").write_text(f"#!{sys.executable}\n{SRUN}")
        (tools / "srun").chmod(0o755)
        foreign = {name for name in os.environ if name.startswith("SLURM")} | {"GPUS", "PROCS", "NODES", "TIME", "CPUS"}
        self.env = {name: value for name, value in os.environ.items() if name not in foreign}
        self.env |= {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE": str(folder), "OMP_NUM_THREADS": "1"}
        self.env["EXPERIMENTS_DIR"] = str(folder / "my runs")

    def submit(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [REPOSITORY / "scripts" / "sh" / "slurm.sh", *words]
        return subprocess.run(command, cwd="/", env={**self.env, **env}, capture_output=True, text=True)

    @contextmanager
    def job(self, restarts: int, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run the script as Slurm does: a copy of it, in the folder of the submission."""
        copy = self.folder / "slurm_script"
        copy.write_bytes((REPOSITORY / "scripts" / "sh" / "slurm.sh").read_bytes())
        slurm = {"SLURM_JOB_ID": "7001", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
        slurm |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        process = subprocess.Popen(
            ["bash", copy, *words],
            cwd=REPOSITORY,
            env={**self.env, **slurm},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_the_options_of_sbatch(cluster: Cluster) -> None:
    done = cluster.submit("train_flow", "--name", "it's $HOME", NODES="2", GPUS="4", TIME="2:00:00", CPUS="16")
    assert done.returncode == 0 and done.stdout == "7001\n", done.stderr
    options = (cluster.folder / "sbatch").read_text().splitlines()
    for words in (
        ["--nodes", "2"],
        ["--cpus-per-task", "16"],
        ["--gpus-per-node", "4"],
        ["--time", "2:00:00"],
        ["--ntasks-per-node", "1"],
    ):
        assert options[options.index(words[0]) + 1] == words[1]
    assert options[-4:] == ["scripts/sh/slurm.sh", "train_flow", "--name", "it's $HOME"]
    in_a_shell_of_salloc = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "node1"}
    assert cluster.submit("train_flow", GPUS="0", **in_a_shell_of_salloc).returncode == 0
    assert "--gpus-per-node" not in (cluster.folder / "sbatch").read_text()


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        (("reconstruct",), {}, "reconstruct runs on one process: use scripts/sh/launch.sh"),
        (("flags",), {}, "no task is called 'flags': choose from bench "),
        (("train_flow",), {"NODES": "two"}, "NODES=two"),
        (("train_flow",), {"GPUS": "-1"}, "GPUS=-1"),
        (("train_flow",), {"PROCS": "0"}, "PROCS=0"),
        (("train_flow",), {"CPUS": "all"}, "CPUS=all"),
        (("train_flow",), {"EXPERIMENTS_DIR": "/proc/none"}, "cannot write to /proc/none"),
    ],
)
def test_mistakes_are_found_before_the_queue(
    cluster: Cluster, words: tuple[str, ...], env: dict[str, str], message: str
) -> None:
    done = cluster.submit(*words, **env)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (cluster.folder / "sbatch").exists()


def test_without_slurm(cluster: Cluster) -> None:
    done = cluster.submit("train_flow", PATH=path_without(cluster.folder / "path", "sbatch"))
    assert done.returncode == 2 and "sbatch is not installed" in done.stderr


def test_a_job_of_two_nodes_resumes_after_its_time_limit(cluster: Cluster) -> None:
    flags = (*TINY, "--batch_size", "64", "--device", "cpu", "--eval_every", "0.2", "--sample_every", "0")
    with cluster.job(0, "train_flow", *flags, "--max_steps", "1000000", "--name", "a b") as job:
        runs = cluster.folder / "my runs"
        assert eventually(lambda: list(runs.glob("*/metrics.csv")), 300)
        job.send_signal(signal.SIGUSR1)
        out, err = job.communicate(timeout=300)
    assert job.returncode == 128 + signal.SIGTERM, err
    (folder,) = (path.parent for path in runs.glob("*/status.json"))
    assert out == f"{folder}\n"
    assert status_of(folder)["state"] == "interrupted"
    assert (cluster.folder / "scontrol").read_text().endswith("requeue 7001 ")
    reached = checkpoints.load_newest(folder)[1]["step"]

    with cluster.job(1, "train_flow", *flags, "--max_steps", str(reached + 5), "--name", "a b") as job:
        out, err = job.communicate(timeout=300)
    assert job.returncode == 0 and out == f"{folder}\n", err
    assert f"resumed at step {reached}" in (folder / "training_log.txt").read_text()
    assert status_of(folder)["state"] == "finished" and status_of(folder)["step"] == reached + 5
    assert (cluster.folder / "scontrol").read_text().count("requeue") == 1
    commands = [line for line in (folder / "environment.txt").read_text().splitlines() if line.startswith("command: ")]
    assert len(commands) == 2
    assert all(
        " NODES=2 GPUS=0 scripts/sh/slurm.sh train_flow " in line and "--name a\\ b" in line for line in commands
    )
    started = (cluster.folder / "srun").read_text().splitlines()
    assert len(started) == 2 and all("--nodes 2 --ntasks 2 --ntasks-per-node 1" in line for line in started)


def test_a_task_that_cannot_resume_is_not_requeued(cluster: Cluster) -> None:
    """Each start of `generate` begins again, so a requeued job would never finish."""
    (cluster.folder / "bin" / "srun").write_text("#!/usr/bin/env bash\nsleep 1\ntouch $FAKE/began\nexec sleep 60\n")
    with cluster.job(0, "generate", "--num_samples", "1000000") as job:
        assert eventually((cluster.folder / "began").exists)
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=120)
    assert job.returncode == 128 + signal.SIGTERM
    assert "requeue" not in (cluster.folder / "scontrol").read_text()
