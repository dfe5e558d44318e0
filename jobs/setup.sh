#!/usr/bin/env bash
# Installs lensscan with everything it needs into .venv of this checkout; run again, it changes nothing.
#
#   bash jobs/setup.sh [--train] [--test]
#
#   --train   also optuna, for sweeps, and Horovod, built once by jobs/build-horovod.sh and kept as a wheel (needs a C++
#             compiler and make)
#   --test    also what the test suite needs
#
# PYTHON        the interpreter to start from (default python3; 3.11 or later)
# LENSSCAN_VENV the environment's folder (default .venv)
set -euo pipefail
# shellcheck source=jobs/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

extras=mpi,view train=no
for word in "$@"; do
    case $word in
        --train) extras+=,train,sweep train=yes ;;
        --test) extras+=,test ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) die "unknown option $word; known are --train and --test" ;;
    esac
done

check_python() {
    PYTHON=${PYTHON:-python3}
    command -v "$PYTHON" >/dev/null || die "no $PYTHON; install the package python3 (3.11 or later), or set PYTHON=/path/to/python"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$PYTHON is $("$PYTHON" -V 2>&1), 3.11 or later is needed; set PYTHON=/path/to/a/newer/python"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$PYTHON cannot make virtual environments; install the package python3-venv (Debian, Ubuntu) and run this again"
}

check_compiler() {
    command -v c++ >/dev/null || command -v g++ >/dev/null ||
        die "--train builds Horovod and there is no C++ compiler; install the package g++ and run this again"
    command -v gcc >/dev/null || command -v cc >/dev/null ||
        die "--train builds Horovod and there is no C compiler; install the package gcc and run this again"
    command -v make >/dev/null || die "--train builds Horovod and there is no make; install the package make and run this again"
}

make_venv() {
    if [ -e "$VENV" ] && ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        say "$VENV is damaged or was moved, making it anew"
        rm -rf -- "$VENV"
    fi
    if [ ! -e "$VENV" ]; then
        say "making $VENV with $("$PYTHON" -V)"
        "$PYTHON" -m venv "$VENV" || die "could not make $VENV; is its folder writable, and python3-venv installed?"
    fi
}

install_packages() {
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$ROOT/jobs/constraints.txt"
    say "installing lensscan[$extras] with the versions of jobs/constraints.txt"
    "$VENV/bin/pip" install -qq setuptools wheel
    "$VENV/bin/pip" install -qq --no-build-isolation -e "${ROOT}[$extras]"
}

# a stamp for each extra tells from which lists it was installed; nothing is done again while it holds
fingerprint() { { echo "$VENV"; cat "$ROOT/setup.cfg" "$ROOT/jobs/constraints.txt" "$ROOT/jobs/build-horovod.sh"; } | sha256sum | cut -d' ' -f1; }

installed() {
    local extra lists
    lists=$(fingerprint)
    for extra in ${extras//,/ }; do
        [ "$(cat "$VENV/.lensscan-$extra" 2>/dev/null)" = "$lists" ] || return 1
    done
}

check_python
make_venv
if ! installed; then
    [ $train = no ] || "$VENV/bin/python" -c 'import horovod' 2>/dev/null || check_compiler
    install_packages
    [ $train = no ] || bash "$ROOT/jobs/build-horovod.sh"
    for extra in ${extras//,/ }; do fingerprint >"$VENV/.lensscan-$extra"; done
fi
"$VENV/bin/lensscan" --version >/dev/null || die "the installed lensscan does not start; remove $VENV and run this again"
say "ready: $VENV/bin/lensscan"
