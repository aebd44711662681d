# Sourced in the root of the repository.

# copy_library: copies the library to the temporary directory $copy, without its tests and examples, whose dependencies do
# not concern its users.
copy_library() {
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    git ls-files -z src | xargs -0 cp --parents --target-directory "$copy"
    awk '/^\[/ { kept = !/^\[(dev-dependencies|\[example|\[test|workspace)/ } kept' Cargo.toml >"$copy/Cargo.toml"
}
