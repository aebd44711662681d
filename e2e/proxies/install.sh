# Sourced, behind packages.sh.

# install_proxies NAME...: installs these proxies, and keeps Debian from starting them as services.
install_proxies() (
    local policy=/usr/sbin/policy-rc.d
    PATH=$PATH:/usr/sbin
    for name in "$@"; do
        if command -v "$name" >/dev/null; then
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
