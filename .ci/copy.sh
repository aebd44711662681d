# Sourced in the root of the repository.

# copy PATH...: copies the files of git below these paths to the temporary directory $copy.
copy() {
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    git ls-files -z "$@" | tar --create --null --files-from - | tar --extract --directory "$copy"
}

# copy_library: copies the library alone, because its users do not build the dependencies of its tests and examples.
copy_library() {
    copy src
    awk '/^\[/ { kept = !/^\[(dev-dependencies|\[example|\[test|workspace)/ } kept' Cargo.toml >"$copy/Cargo.toml"
}
