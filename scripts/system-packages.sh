#!/bin/sh
# Install those of the given Debian packages that are missing: system-packages.sh PACKAGE...
set -eu
missing=""
for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' ||
        missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "These system packages are missing and this user may not install them:$missing" >&2
    echo "Install them once, then run this again:  sudo apt-get install$missing" >&2
    exit 1
fi
echo "Installing system packages:$missing"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update --quiet=2
# shellcheck disable=SC2086  # a list of words
$as_root apt-get install --quiet=2 --yes --no-install-recommends $missing >/dev/null
