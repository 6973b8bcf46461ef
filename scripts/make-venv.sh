#!/bin/sh
# Make a virtual environment: make-venv.sh PYTHON FOLDER.
# Debian ships Python without ensurepip; then install python3-venv where this user may.
set -eu
python=$1
venv=$2
command -v "$python" >/dev/null 2>&1 || python=python3
command -v "$python" >/dev/null 2>&1 || {
    echo "EdgeBus needs Python 3.11 or newer; install it, or say where it is: make PYTHON=/path/to/python3.11" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "EdgeBus needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Say where a newer one is: make PYTHON=…" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$(dirname "$0")/system-packages.sh" "python$minor-venv"
fi
"$python" -m venv "$venv"
