#!/bin/sh
# Installs rejoinder's static binary for Linux into ~/.local/bin, or into the folder that REJOINDER_INSTALL names:
#   curl -fsSL https://github.com/rejoinder/rejoinder/releases/latest/download/install.sh | sh
# REJOINDER_RELEASE names another place of the files: a URL, or a folder.
set -eu

release=${REJOINDER_RELEASE:-https://github.com/rejoinder/rejoinder/releases/latest/download}
into=${REJOINDER_INSTALL:-$HOME/.local/bin}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

fetch() {
    case $release in
    *://*)
        if command -v curl >/dev/null; then
            curl -fsSL -o "$2" "$release/$1"
        elif command -v wget >/dev/null; then
            wget -qO "$2" "$release/$1"
        else
            fail "curl or wget is needed"
        fi
        ;;
    *) cp "$release/$1" "$2" ;;
    esac || fail "cannot fetch $release/$1"
}

main() {
    [ "$(uname -s)" = Linux ] || fail "there are binaries for Linux alone; elsewhere: cargo install --locked --git https://github.com/rejoinder/rejoinder"
    case $(uname -m) in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) fail "there is no binary for $(uname -m)" ;;
    esac
    command -v sha256sum >/dev/null || fail "sha256sum is needed"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    archive=rejoinder-$machine-linux.tar.gz
    fetch "$archive" "$scratch/$archive"
    fetch SHA256SUMS "$scratch/SHA256SUMS"
    (cd "$scratch" && grep " $archive\$" SHA256SUMS | sha256sum -c - >/dev/null) || fail "the checksum of $archive is wrong"
    tar -xzf "$scratch/$archive" -C "$scratch"
    mkdir -p "$into"
    # another name first: a running one cannot be written to
    cp "$scratch/rejoinder/rejoinder" "$into/.rejoinder.new"
    chmod 755 "$into/.rejoinder.new"
    mv "$into/.rejoinder.new" "$into/rejoinder"
    echo "installed $("$into/rejoinder" --version) as $into/rejoinder"
    case :$PATH: in
    *:"$into":*) ;;
    *) echo "$into is not in your PATH: export PATH=\"$into:\$PATH\"" ;;
    esac
    echo "next: rejoinder --upstream http://127.0.0.1:8080"
}

# all of it is read before anything runs
main
