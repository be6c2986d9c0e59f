#!/bin/bash
# Trains under slurm for as long as it takes, in jobs of limited time, each of which goes on where the
# last one stopped:
#
#     sbatch --nodes 1 tools/slurm_train.sh CONFIG --work-dir DIR [more of `mmconvnext train`]
#
# Two minutes before its end, or when it is to make room, each process gets SIGUSR1 (or SIGTERM):
# the training finishes its step, writes a checkpoint and ends with code 75. See docs/reliability.md.
#SBATCH --job-name=mmconvnext
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8

# One process a GPU, started by srun. --resume begins anew where there is no checkpoint yet.
srun --kill-on-bad-exit=0 mmconvnext train "$@" --launcher slurm --resume
code=$?
if [ "$code" -eq 75 ]; then
    echo "stopped by a signal: job $SLURM_JOB_ID is queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
