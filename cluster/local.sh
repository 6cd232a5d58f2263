#!/usr/bin/env bash
# Dask by hand on one or several machines that see the same archive and workspace.
#
#   local.sh triage SRC [options of emqa triage]   everything on this machine; stops its workers at the end
#
#   local.sh scheduler                   on one machine, in a terminal of its own
#   local.sh workers ADDRESS [N]         on each machine: N worker processes, default one per core
#   emqa triage SRC --scheduler ADDRESS  anywhere; again and again if you like, the workers stay
#
# ADDRESS is what `scheduler` prints (tcp://host:port), or file:PATH of the file that it writes, on a disk they share.
#
# Environment:
#   HOST=127.0.0.1             where the scheduler or these workers listen: an address of this machine. Whoever reaches
#                              it can run code as you: a private network, or TLS
#   PORT=8786                  of the scheduler; 0 takes a free one
#   SCHEDULER_FILE=PATH        scheduler: where to write its address, default ./emqa-scheduler.json
#   TLS=FOLDER                 a folder with ca.pem, cert.pem and key.pem: speak TLS only (and emqa --set run.tls=FOLDER)
#   WAIT=300                   workers: seconds that they wait for a scheduler, also for one that they have lost
#   WORKERS=N                  triage: worker processes, default one per core
#   MEMORY=auto                of one worker, e.g. 4GiB; auto is the machine's memory over the workers
#   DASK_CONFIG=FILE           default: dask.yaml beside this script
#   PYTHON=python              of the environment that emqa is installed in
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DASK_CONFIG=${DASK_CONFIG:-$here/dask.yaml}
host=${HOST:-127.0.0.1}
python=${PYTHON:-python}
tls=()
if [ -n "${TLS:-}" ]; then
    for name in ca cert key; do
        [ -r "$TLS/$name.pem" ] || { echo "local.sh: TLS=$TLS: there is no $name.pem in it that can be read" >&2; exit 1; }
    done
    tls=(--tls-ca-file "$TLS/ca.pem" --tls-cert "$TLS/cert.pem" --tls-key "$TLS/key.pem")
fi

usage() {
    sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' >&2
    exit 1
}

scheduler() {
    exec "$python" -m distributed.cli.dask_scheduler --host "${TLS:+tls://}$host" --port "${PORT:-8786}" \
        --dashboard-address 127.0.0.1:0 --scheduler-file "${SCHEDULER_FILE:-emqa-scheduler.json}" "${tls[@]}"
}

workers() {
    local address=$1 n=${2:-$(nproc)} to child
    case $address in
    file:*) to=(--scheduler-file "${address#file:}") ;;
    *) to=("$address") ;;
    esac
    trap 'kill $child 2>/dev/null; wait; exit 143' INT TERM
    # A worker whose link to the scheduler breaks ends, with all that belongs to it: start it again, which waits for the
    # scheduler to be there again, and fails when it is not.
    while true; do
        "$python" -m distributed.cli.dask_worker "${to[@]}" --host "$host" --nworkers "$n" --nthreads 1 \
            --memory-limit "${MEMORY:-auto}" --no-dashboard --death-timeout "${WAIT:-300}" "${tls[@]}" &
        child=$!
        wait $child
    done
}

triage() {
    local folder driver code=0
    folder=$(mktemp -d)
    set -m # a process group for each of the three: Ctrl-C comes here, and goes to emqa alone
    trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$folder"' EXIT
    SCHEDULER_FILE=$folder/scheduler.json PORT=${PORT:-0} "${BASH_SOURCE[0]}" scheduler >"$folder/scheduler.log" 2>&1 &
    until [ -s "$folder/scheduler.json" ]; do
        kill -0 $! 2>/dev/null || { cat "$folder/scheduler.log" >&2; exit 1; }
        sleep 0.1
    done
    "${BASH_SOURCE[0]}" workers "file:$folder/scheduler.json" "${WORKERS:-}" >"$folder/workers.log" 2>&1 &
    "$python" -m emqa_dask triage "$@" --scheduler "file:$folder/scheduler.json" ${TLS:+--set "run.tls='$TLS'"} &
    driver=$!
    trap 'kill -INT $driver' INT TERM
    wait $driver || code=$?
    while kill -0 $driver 2>/dev/null; do # a signal came here first; emqa is finishing
        code=0
        wait $driver || code=$?
    done
    exit $code
}

case ${1:-} in
scheduler) [ $# -eq 1 ] || usage; scheduler ;;
workers) { [ $# -eq 2 ] || [ $# -eq 3 ]; } || usage; workers "${@:2}" ;;
triage) [ $# -ge 2 ] || usage; triage "${@:2}" ;;
*) usage ;;
esac
