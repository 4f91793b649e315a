#!/bin/bash
# Trains a recipe on HF Jobs. The run lies in a bucket, so that a job which is ended goes on in the
# next attempt, and every push lands in a model repo.
#
#   training/jobs/hf_job.sh RECIPE ORG/NAME BUCKET [--flavor F] [--dry-run] [-- train run options]
#   (without F: eight A100, for an adapter one H200)
#
# RECIPE   echo4o_7b, echo4o_7b_lora, echo4o_7b_qlora
# ORG/NAME model repo that gets the weights, the card, the record and the samples
# BUCKET   ORG/BUCKET for the run: `hf buckets create ORG/BUCKET` makes one
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,11p' "$0"; exit 2; }
recipe=$1 repo=$2 bucket=$3; shift 3
flavor=a100x8 packages='"$(ls /wheel/*.whl)[train,quantize,card]"' dry=()
case $recipe in
  *_qlora) flavor=h200 packages+=" bitsandbytes" ;;
  *_lora) flavor=h200 ;;  # an adapter has the whole base on every GPU: one will do
esac
while [ $# -gt 0 ] && [ "$1" != "--" ]; do
  case $1 in
    --flavor) flavor=$2; shift 2 ;;
    --dry-run) dry=(--dry-run); shift ;;
    *) echo "unknown option $1; options of the training come after --" >&2; exit 2 ;;
  esac
done
[ "${1:-}" = "--" ] && shift

cd "$(dirname "$0")/../.."
wheel=$(mktemp -d)
pip wheel --quiet --no-deps --wheel-dir "$wheel" .
# torchrun takes all GPUs of the machine; the words after it are quoted once for the remote shell.
train="torchrun --standalone --nproc_per_node gpu -m echo4o.training run $recipe"
train+=" --out /run/$recipe --push $repo --push-every 1000"
[ $# -gt 0 ] && train+=$(printf ' %q' "$@")
exec hf jobs run "${dry[@]}" \
  --flavor "$flavor" --timeout 3d --attempts 3 --name "train-$recipe" --secrets HF_TOKEN \
  --volume "$wheel:/wheel" --volume "hf://buckets/$bucket:/run:rw" \
  pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime \
  bash -c "pip install -q $packages && exec $train"
