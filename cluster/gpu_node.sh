#!/usr/bin/env bash
# Machines with NVIDIA GPUs: a worker process per GPU, with one pool of its memory for CuPy and torch together.
#
#   gpu_node.sh triage SRC [options of emqa triage]   on one machine: emqa starts and stops the workers itself
#
#   local.sh scheduler                 on several: one scheduler, anywhere (see local.sh, also for TLS, HOST, ...)
#   gpu_node.sh workers ADDRESS        on each GPU machine: its GPUs join that scheduler
#   emqa triage SRC --scheduler ADDRESS --set run.device="cuda"
#
# Environment, beside what local.sh takes:
#   CUDA_VISIBLE_DEVICES=0,1   which GPUs; default all
#   POOL=0.8                   part of a GPU's memory that its worker takes at once
#   THREADS=4                  tasks of a worker: one computes on the GPU while others read or finish
#   MEMORY=auto                of the machine's memory, for one worker, e.g. 8GiB
# `emqa doctor` says whether driver and packages (pip install 'emqa_dask[gpu]') are there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DASK_CONFIG=${DASK_CONFIG:-$here/dask.yaml}
# No process that has touched CUDA is ever forked, and GPUs are numbered as nvidia-smi numbers them.
export DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD=spawn CUDA_DEVICE_ORDER=PCI_BUS_ID
python=${PYTHON:-python}

usage() {
    sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' >&2
    exit 1
}

workers() {
    local address=$1 to tls=()
    case $address in
    file:*) to=(--scheduler-file "${address#file:}") ;;
    *) to=("$address") ;;
    esac
    if [ -n "${TLS:-}" ]; then
        tls=(--tls-ca-file "$TLS/ca.pem" --tls-cert "$TLS/cert.pem" --tls-key "$TLS/key.pem")
    fi
    exec "$python" -m dask_cuda.cli worker "${to[@]}" --host "${HOST:-127.0.0.1}" --nthreads "${THREADS:-4}" \
        --memory-limit "${MEMORY:-auto}" --death-timeout "${WAIT:-300}" --no-dashboard --resources GPU=1 \
        --set-rmm-allocator-for-libs=cupy,torch --rmm-pool-size="${POOL:-0.8}" \
        --rmm-maximum-pool-size="${POOL:-0.8}" "${tls[@]}"
}

{ command -v nvidia-smi && nvidia-smi --list-gpus; } >/dev/null 2>&1 || {
    echo "gpu_node.sh: nvidia-smi lists no GPU here; local.sh and --scheduler local use the CPU" >&2
    exit 1
}
case ${1:-} in
triage)
    [ $# -ge 2 ] || usage
    exec "$python" -m emqa_dask triage "${@:2}" --scheduler cuda --set 'run.device="cuda"' \
        --set "cuda.rmm_pool_fraction=${POOL:-0.8}" ${TLS:+--set "run.tls=$TLS"}
    ;;
workers) [ $# -eq 2 ] || usage; workers "$2" ;;
*) usage ;;
esac
