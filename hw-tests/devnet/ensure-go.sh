#!/bin/bash
# Prints the path of a Go that can build the local chain's tools, installing one with apt when there is none.
#
# Go 1.21 is the first that fetches by itself the newer toolchain which a go.mod asks for (checked against the checksum
# database); with anything older the build stops. Debian 12's own golang is 1.19, so there the package comes from
# bookworm-backports. Debian 13 has 1.24, Ubuntu 24.04 has golang-1.22 and newer beside its default.
# The path is the last line of standard output; everything else goes to standard error.
set -euo pipefail

say() { echo "ensure-go: $*" >&2; }

# Succeeds when the Go at $1 runs and is 1.21 or newer.
new_enough() {
    local version minor
    version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1 # "go1.24.4", "go1.22rc1"
    [[ $version =~ ^go([0-9]+)\.([0-9]+) ]] || return 1
    minor=${BASH_REMATCH[2]}
    ((BASH_REMATCH[1] > 1 || minor >= 21))
}

# Prints the first good Go: on the path, then where Debian and the upstream archive put it.
find_go() {
    local candidate
    for candidate in "$(command -v go || true)" /usr/local/go/bin/go $(ls -d /usr/lib/go-*/bin/go 2>/dev/null | sort -rV) /usr/lib/go/bin/go; do
        if [[ -n $candidate && -x $candidate ]] && new_enough "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

find_go && exit 0

command -v apt-get >/dev/null || { say "no Go 1.21 or newer here, and no apt-get to install one: install it from https://go.dev/dl/"; exit 1; }
as_root=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || { say "installing Go needs root: run as root, or install sudo"; exit 1; }
    as_root=(sudo)
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" >&2; }

say "installing Go (it builds geth and Prysm for the local chain; both are Go programs and no package of them is pinned by hash)"
. /etc/os-release
packages=(golang-go)
case "${ID:-}:${VERSION_ID:-}" in
debian:12)
    say "Debian 12 has Go 1.19, too old to fetch newer toolchains: taking the package from bookworm-backports"
    if ! grep -q bookworm-backports <<<"$(apt-cache policy)"; then
        mirror=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' | sed -n 's/^Debian|Debian|//p' | head -n 1)
        [[ -n $mirror ]] || { say "no Debian mirror in apt's sources: add bookworm-backports by hand"; exit 1; }
        echo "deb $mirror bookworm-backports main" |
            "${as_root[@]}" tee /etc/apt/sources.list.d/hearth-bookworm-backports.list >/dev/null
    fi
    packages=(-t bookworm-backports golang-go)
    ;;
ubuntu:22.04)
    packages=(golang-1.21-go)
    ;;
esac
apt update
apt install -y --no-install-recommends "${packages[@]}"
find_go || { say "apt installed a Go that is older than 1.21: install a newer one from https://go.dev/dl/"; exit 1; }
