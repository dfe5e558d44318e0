#!/usr/bin/env bash
# Runs one scan or training inside a batch job until its output verifies; the job scripts beside it end in this.
#
#   bash resume.sh OUT.h5 LAUNCHER ... lensscan scan RUN.toml
#   bash resume.sh MODEL.safetensors LAUNCHER ... lensscan train TRAIN.toml -o MODEL.safetensors
#
# The launcher's exit code proves nothing: mpiexec can return 0 after a node has died with its work.  A scan is
# done when the command says so AND `lensscan verify OUT.h5` agrees; otherwise the same command is run again,
# which resumes, because finished blocks are kept.  A training is done when its model file, which appears last and
# whole, can be loaded.
#
# Exit codes of the scan, and what is done about them:
#     0  complete                        verify; done, or again if the output does not verify
#     2  usage                           stop: the next attempt would fail in the same way
#     3  complete, many rows failed      verify; done, exit 3
#    74  disk full or failing            stop: free space first, then submit again
#    75  incomplete, stopped in order    hand the job back to the queue
#   130  interrupted by a person         stop
#   any other, also a killed launcher    again, up to LENSSCAN_ATTEMPTS times
#
# SIGUSR1 (sent by the scheduler before the time is up) stops the scan in order, then the job goes back to the
# queue.  SIGTERM (cancelled or preempted) stops it in order and leaves the queue to the scheduler.
#
#   LENSSCAN_ATTEMPTS   attempts within this job (default 5), LENSSCAN_PAUSE seconds between them (default 10)
#   LENSSCAN_WALL       seconds after which the scan stops in order by itself, for schedulers without USR1
#   LENSSCAN_REQUEUE    command that hands the job back to the queue; empty: exit 75 and leave it to you
#   LENSSCAN_RESTARTS   how often that has happened (default 0); it ends at LENSSCAN_RESTART_LIMIT (default 20)
set -uo pipefail

[ $# -ge 2 ] || { echo "usage: resume.sh OUT.h5 LAUNCHER ... lensscan scan RUN.toml" >&2; exit 2; }
output=$1
shift
attempts=${LENSSCAN_ATTEMPTS:-5}
pause=${LENSSCAN_PAUSE:-10}
child='' stopped=no

say() { printf '%s resume: %s\n' "$(date +%H:%M:%S)" "$*"; }

# shellcheck disable=SC2329  # called by the traps
forward() {
    stopped=$1
    say "$1 received, stopping the scan in order"
    [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM

# Sets code to the command's exit code.  bash delivers a trap only between commands, so the command runs in the
# background; a trapped signal ends the first wait at once, and only a further wait sees the command's own end.
run() {
    "$@" </dev/null &
    child=$!
    code=0
    wait "$child" || code=$?
    while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do
        code=0
        wait "$child" || code=$?
    done
    child=''
}

verified() {
    case $output in
        *.safetensors) python -c 'import sys, lensscan; lensscan.load_model(sys.argv[1])' "$output" ;;
        *) lensscan verify "$output" ;;
    esac >/dev/null 2>&1
}

hand_back() {
    local restarts=${LENSSCAN_RESTARTS:-0}
    if [ "$stopped" = TERM ] || [ -z "${LENSSCAN_REQUEUE:-}" ]; then
        say "incomplete; submit the same script again to go on"
    elif [ "$restarts" -ge "${LENSSCAN_RESTART_LIMIT:-20}" ]; then
        say "incomplete after $restarts restarts, which is the limit; look at the log, then submit again"
    else
        say "incomplete, back to the queue (restart $((restarts + 1))): $LENSSCAN_REQUEUE"
        bash -c "$LENSSCAN_REQUEUE" || say "the queue refused; submit the same script again to go on"
    fi
    exit 75
}

for ((attempt = 1; attempt <= attempts; attempt++)); do
    command=("$@")
    if [ -n "${LENSSCAN_WALL:-}" ]; then
        left=$((LENSSCAN_WALL - SECONDS))
        [ "$left" -ge 30 ] || hand_back
        command+=(--max-seconds "$left")
    fi
    say "attempt $attempt of $attempts: ${command[*]}"
    run "${command[@]}"
    case $code in
        0 | 3)
            if verified; then
                say "complete: $output verifies (exit code $code)"
                exit "$code"
            fi
            say "the launcher returned $code, but $output does not verify: work is missing"
            ;;
        2 | 74 | 130)
            say "exit code $code: another attempt would not help"
            exit "$code"
            ;;
        75) hand_back ;;
        *) say "exit code $code" ;;
    esac
    [ "$stopped" = no ] || hand_back
    [ "$attempt" = "$attempts" ] || sleep "$pause"
    [ "$stopped" = no ] || hand_back
done
say "gave up after $attempts attempts"
[ "$code" -ne 0 ] || code=75
exit "$code"
