# Sourced by the parts of the end-to-end tests.

# need COMMAND PACKAGE...: installs these Debian packages, unless the command is there.
need() {
    local command=$1
    shift
    if ! command -v "$command" >/dev/null; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
            install --yes --no-install-recommends "$@"
    fi
}

# need_node DIRECTORY: Node.js 20 or newer. Debian 12 has an older one, which can fetch a newer one from npm into this
# directory.
need_node() {
    need node nodejs
    need npm npm
    if [ "$(node --print 'process.versions.node.split(".")[0]')" -lt 20 ]; then
        npm install --loglevel=error --prefix "$1" node@22
        PATH=$1/node_modules/.bin:$PATH
    fi
}

# need_venv DIRECTORY REQUIREMENTS: a Python environment in this directory, with the packages that this file names.
need_venv() {
    need python3 python3
    python3 -c "import ensurepip" 2>/dev/null || need ensurepip python3-venv
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
}
