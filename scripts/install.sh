#!/bin/sh
# Install packages into a virtual environment and show how far it is: install.sh PIP PACKAGE.
set -eu
pip=$1
package=$2
code=$(mktemp)
trap 'rm -f "$code"' EXIT
echo "Installing EdgeBus ($package) and what it needs: some 2 GB on disk, most of it PyTorch; minutes, the first time."
(seconds=0; while sleep 15 >/dev/null 2>&1; do seconds=$((seconds + 15)); echo "  … $seconds s"; done) &
clock=$!
{ "$pip" install --progress-bar off --editable "$package" 2>&1 && echo 0 >"$code" || echo $? >"$code"; } | awk '
    /^ *Downloading .*[0-9] (MB|GB)\)/ { print "  downloading " $2 " " $3 " " $4; fflush(); next }
    /^ *Using cached .*[0-9] (MB|GB)\)/ { print "  has " $3 " " $4 " " $5; fflush(); next }
    /^Installing collected packages/ { print "  installing " NF - 3 " packages"; fflush(); next }
    /^(ERROR|error|WARNING: Retrying)|^ *(×|╰─>|note:)/ { failed = 1 }
    failed { print; fflush() }
'
kill "$clock" 2>/dev/null || true
exit "$(cat "$code")"
