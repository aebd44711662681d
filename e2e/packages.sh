# Sourced by the scripts of this repository. Each function installs missing dependencies, and fails if it cannot.

# need COMMAND PACKAGE...: installs these Debian packages, unless the command exists.
need() {
    local command=$1
    shift
    if ! PATH=$PATH:/usr/sbin command -v "$command" >/dev/null; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
            install --yes --no-install-recommends "$@"
    fi
}

# need_servers NAME...: installs these servers. Debian must not start them as services.
need_servers() (
    policy=/usr/sbin/policy-rc.d
    for name in "$@"; do
        if PATH=$PATH:/usr/sbin command -v "$name" >/dev/null; then
            continue
        fi
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        need "$name" "$name"
    done
)

# need_node DIRECTORY: installs Node.js 22 or newer. Debian 12 has an older version, whose npm installs a newer version into
# this directory.
need_node() {
    need node nodejs
    need npm npm
    if [ "$(node --print 'process.versions.node.split(".")[0]')" -lt 22 ]; then
        npm install --loglevel=error --prefix "$1" node@22
        PATH=$1/node_modules/.bin:$PATH
    fi
}

# need_venv DIRECTORY REQUIREMENTS: makes a Python environment in this directory, with the packages that this file lists.
need_venv() {
    need python3 python3
    python3 -c "import ensurepip" 2>/dev/null || need ensurepip python3-venv
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
}

# need_nightly [COMPONENT...]: installs a nightly toolchain with these components.
need_nightly() {
    cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
    if [ $# -gt 0 ]; then
        rustup component add --toolchain nightly "$@"
    fi
}

# need_tool NAME: installs this cargo subcommand. It is built in a separate folder, so that no other build waits for it.
need_tool() {
    local -A versions=([deny]=0.20.2 [fuzz]=0.13.2 [public-api]=0.52.0)
    cargo "$1" --version >/dev/null 2>&1 ||
        env --unset CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=none cargo install "cargo-$1@${versions[$1]}" --locked --debug
}

# build TARGET...: builds programs in the debug profile, with the features that `.ci/run` builds for the tests. With BUILT, the
# programs exist already.
build() {
    if [ -z "${BUILT:-}" ]; then
        cargo build --workspace --exclude frameworks --all-features "$@"
    fi
}
