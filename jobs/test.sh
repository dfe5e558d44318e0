#!/usr/bin/env bash
# Installs everything, Horovod included, then runs ruff, mypy and every test; what CI runs.
#
#   bash jobs/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
# shellcheck source=jobs/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
cd -- "$ROOT"

# the two-host tests make network namespaces: CI as root installs what they need, elsewhere they skip and say so
if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && ! command -v ip >/dev/null && command -v apt-get >/dev/null; then
    say "installing iproute2 for the two-host tests"
    { apt-get update -qq && apt-get install -y -qq iproute2; } >/dev/null 2>&1 || say "no iproute2: the two-host tests will skip"
fi

bash jobs/setup.sh --train --test
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MPLBACKEND=Agg

failed=()
say "ruff"
"$VENV/bin/ruff" check . || failed+=(ruff)
say "mypy"
"$VENV/bin/mypy" || failed+=(mypy)
say "pytest, slow tests included"
"$VENV/bin/python" -m pytest -m "" --durations=25 "$@" || failed+=(pytest)
if [ ${#failed[@]} -gt 0 ]; then
    printf 'test: error: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
