# Sourced by the parts of the end-to-end tests.

# need COMMAND PACKAGE...: installs these Debian packages, unless the command is there.
need() {
    local command=$1
    shift
    if ! command -v "$command" >/dev/null; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
    fi
}
