# Sourced by the scripts of this repository. Each function installs missing dependencies, and fails if it cannot.

# The nightly toolchain of all scripts. The tools that read the JSON of rustdoc depend on its version.
nightly=nightly-2026-05-20

# as_root COMMAND...: runs the command as root, with sudo if this user is not root.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --non-interactive "$@"; fi
}

# need COMMAND PACKAGE...: installs these Debian packages, unless the command exists.
need() {
    local command=$1
    shift
    if PATH=$PATH:/usr/sbin command -v "$command" >/dev/null; then
        return
    fi
    as_root true || { echo "$command is missing. Its Debian packages: $*" >&2; return 1; }
    # apt waits for some of its locks, but not for that of its lists.
    (
        flock 8
        as_root apt-get update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
            install --yes --no-install-recommends "$@"
    ) 8>"${TMPDIR:-/tmp}/tower-sse-completion.apt"
}

# need_servers NAME...: installs these servers. Debian must not start them as services.
need_servers() (
    policy=/usr/sbin/policy-rc.d
    for name in "$@"; do
        if PATH=$PATH:/usr/sbin command -v "$name" >/dev/null; then
            continue
        fi
        if [ ! -e "$policy" ]; then
            trap 'as_root rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
            as_root chmod +x "$policy"
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
        mkdir -p "$1"
        flock "$1" npm install --loglevel=error --prefix "$1" node@22
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

# need_toolchain NAME [COMPONENT...]: installs a Rust toolchain with these components.
need_toolchain() {
    local name=$1
    shift
    rustup toolchain list | grep -q "^$name-" || rustup toolchain install "$name" --profile minimal
    if [ $# -gt 0 ]; then
        rustup component add --toolchain "$name" "$@"
    fi
}

# need_component COMMAND: installs the component of the default toolchain that has this cargo subcommand.
need_component() {
    cargo "$1" --version >/dev/null 2>&1 || rustup component add "${1/#fmt/rustfmt}"
}

# need_openssl: installs the headers of OpenSSL. Outside of Linux, no tool links OpenSSL.
need_openssl() {
    [ "$(uname)" != Linux ] || pkg-config --exists openssl 2>/dev/null || need openssl-headers pkg-config libssl-dev
}

# need_tool NAME: installs this cargo subcommand. It is built in a separate folder, so that no other build waits for it.
need_tool() {
    local version
    if cargo "$1" --help >/dev/null 2>&1; then
        return
    fi
    case $1 in
        check-external-types) version=0.5.0 ;;
        deny) version=0.20.2 ;;
        fuzz) version=0.13.2 ;;
        hack) version=0.6.46 ;;
        public-api)
            version=0.52.0
            need_openssl
            ;;
        semver-checks) version=0.51.0 ;;
    esac
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=none cargo install "cargo-$1@$version" --locked --debug
}

# build TARGET...: builds programs in the debug profile, with the features that `.ci/run` builds for the tests. With BUILT, the
# programs exist already.
build() {
    if [ -z "${BUILT:-}" ]; then
        cargo build --workspace --exclude frameworks --all-features "$@"
    fi
}

# run_tests COMMAND...: runs `cargo test`. Fails if no test ran, and on Linux also if a program of tests/ ran no test.
run_tests() {
    "$@" 2>&1 | awk -v linux="$([ "$(uname)" = Linux ] && echo 1)" '
        { print; fflush() }
        / Running / { program = $2 ~ /^tests/ ? $2 : "" }
        /^test result: ok/ {
            passed += $4
            ignored += $8
            if (linux && program != "" && $4 == 0) empty = empty " " program
            program = ""
        }
        END {
            print passed + 0 " tests passed, " ignored + 0 " ignored"
            if (empty != "") print "no test ran in" empty
            exit passed == 0 || empty != ""
        }'
}
