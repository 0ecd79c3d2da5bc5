#!/bin/sh
# Pin and hash what goes into the image.
#
#     requirements.txt          what Rowlock needs, and its extras crypto, metrics, otel and
#                               operator, as pyproject.toml has them
#     build-requirements.txt    what builds its wheel: build-requirements.in
#
#     deploy/image/lock.sh              add what is missing, keep the versions that are locked
#     deploy/image/lock.sh --upgrade    the newest of everything (or --upgrade-package NAME)
#
# One lock for every Python from 3.11 on and every platform; the resolver is uv, pinned, from PyPI.
# The settings of uv and pip on the machine that runs this leave no trace in the locks.
set -eu
UV_VERSION=0.13.9
PYTHON=${PYTHON:-python3}
cd "$(dirname "$0")"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$PYTHON" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"

lock() { # OUTPUT SOURCE OPTIONS…
  output=$1
  shift
  "$tools/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 \
    --generate-hashes --only-binary :all: \
    --custom-compile-command deploy/image/lock.sh --output-file "$output" "$@"
}
lock requirements.txt ../../pyproject.toml --extra crypto --extra metrics --extra otel --extra operator "$@"
lock build-requirements.txt build-requirements.in "$@"
