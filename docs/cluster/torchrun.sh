#!/bin/sh
# A training on several machines: run this on each, with their number and the name of one of them.
# The same command on one machine: --nnodes 1, or --standalone in place of all --rdzv options.
set -eu
nodes=$1
host=$2

# Where processes talk through gloo, without GPUs, restarts need this (docs/reliability.md).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

torchrun --nnodes "$nodes" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$host:29400" --rdzv-id convnext \
    -m mmconvnext train cascade_convnext_xl_in22k_coco.py --launcher pytorch \
    --data-root /shared/coco --work-dir /shared/work_dirs/xl --resume --auto-scale-lr --shard \
    --cfg-options env_cfg.dist_cfg.timeout=600
