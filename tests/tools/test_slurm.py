"""The script for slurm, with stand-ins for slurm's own commands."""

import os
import subprocess

import pytest

TRAINING = """#!/bin/bash
# srun: runs its command, here a training that waits, and takes the signal that slurm would send
echo "$@" > arguments
trap 'exit 75' USR1
{}
exit {}
"""


@pytest.mark.parametrize(
    ("happens", "code", "queued"),
    [("kill -USR1 $$; sleep 0.1", 75, True), ("", 0, False), ("", 1, False)],
)
def test_a_job_is_queued_again_after_a_signal_alone(tmp_path, repo, happens, code, queued):
    commands = {
        "srun": TRAINING.format(happens, code),
        "scontrol": '#!/bin/bash\necho "$@" > queue',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    script = repo / "tools" / "slurm_train.sh"
    command = ["bash", script, "a config", "--work-dir", "w"]
    process = subprocess.run(command, cwd=tmp_path, env=environ, check=False)
    assert process.returncode == code
    arguments = (tmp_path / "arguments").read_text()
    assert "mmconvnext train a config --work-dir w --launcher slurm --resume" in arguments
    assert (tmp_path / "queue").exists() == queued
    if queued:
        assert (tmp_path / "queue").read_text() == "requeue 7\n"


def test_the_script_is_one_that_bash_reads(repo):
    subprocess.run(["bash", "-n", repo / "tools" / "slurm_train.sh"], check=True)
