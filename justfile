# The whole developer interface; .ci/run calls nothing else. `just` alone lists it.
# Tools beside cargo: `python3 -m pip install --require-hashes -r .ci/tools.txt`.

set shell := ["bash", "-euo", "pipefail", "-c"]

# The release image is amd64 and arm64; the size budget holds for each.
target := `rustc -vV | sed -n 's/^host: //p'`
static_binary := "target" / target / "release/tollgate"
size_max_mib := "7"

_list:
    @just --list --unsorted

# Everything quick: what to run before a commit.
check: fmt-check clippy tidy test

# Everything that a change must pass; CI runs this. The tests come last, so that their result is the last line.
ci: fmt-check clippy doc crypto deny release-binary fuzz-smoke witness (kill-campaign "24") test

# Formats the sources.
fmt:
    cargo fmt
    cargo fmt --manifest-path fuzz/Cargo.toml

# Fails on unformatted sources.
fmt-check:
    cargo fmt --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check

# Lints both builds: with the emulator, and as released.
clippy:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --no-default-features -- -D warnings

# Builds the documentation, private items too: every link between modules must hold.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# All tests and documentation tests: the README's command.
test:
    cargo test --locked

# The tests (not those in documentation) each in a process of its own, hung ones ended: `just nextest -E 'test(name)'`.
nextest *args:
    cargo nextest run --locked {{ args }}

# The rules of the house: imports, module docs, names, documents. Seconds; part of `test`.
tidy:
    cargo test --locked --test tidy

# Kills the binary under load, at random and at every named step, and compares the bill with what was acknowledged.
kill-campaign kills="200" seed="":
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --locked --features fail-points
    cp target/debug/tollgate target/tollgate-fail-points
    python3 tests/campaign/kill.py target/tollgate-fail-points {{ kills }} {{ seed }}

# Bans, licences and sources of dependencies. Needs no network.
deny:
    cargo deny --locked check bans licenses sources

# Known vulnerabilities. Fetches the RustSec database, so it is not part of `ci`: run it when Cargo.lock changes.
advisories:
    cargo deny --locked check advisories

# One crypto library, ring: no other may be in any build.
crypto:
    #!/usr/bin/env bash
    set -euo pipefail
    for crate in aws-lc-rs aws-lc-sys openssl-sys; do
        for features in --all-features --no-default-features; do
            # `cargo tree -i` fails when the crate is absent, which is what is wanted; any other failure is not.
            if found=$(cargo tree --locked --target all --edges all $features --invert "$crate" 2>&1); then
                # Present only as an unused option of another crate: an empty answer with a warning.
                if [ -n "$(grep -v '^warning' <<<"$found" | grep -v '^$' || true)" ]; then
                    printf '%s is in the tree:\n%s\n' "$crate" "$found" >&2
                    exit 1
                fi
            elif ! grep -q 'did not match any packages' <<<"$found"; then
                printf '%s\n' "$found" >&2
                exit 1
            fi
        done
    done
    echo "crypto: ring alone"

# What the release build is made with: static, and without a path of the machine that made it.
release_flags := "-C target-feature=+crt-static --remap-path-prefix=" + env("CARGO_HOME", home_directory() / ".cargo") + \
    "=/cargo --remap-path-prefix=" + justfile_directory() + "=/tollgate"

# The static binary of the release image (no emulator), within its size budget and hardened.
release-binary:
    #!/usr/bin/env bash
    set -euo pipefail
    # An explicit target keeps the flags from build scripts and procedural macros, which cannot be static.
    RUSTFLAGS="{{ release_flags }}" cargo build --release --locked --no-default-features --target {{ target }}
    bytes=$(stat -c %s {{ static_binary }})
    echo "release binary: $bytes bytes of at most $(({{ size_max_mib }} * 1024 * 1024))"
    [ "$bytes" -le $(({{ size_max_mib }} * 1024 * 1024)) ]
    just hardening {{ static_binary }}

# Static, position-independent, relocations read-only, no executable stack: what the release notes promise of the binary.
hardening program=static_binary:
    #!/usr/bin/env bash
    set -euo pipefail
    headers=$(readelf --file-header --program-headers --dynamic --wide {{ program }})
    has() { grep -Eq "$1" <<<"$headers" || { echo "hardening: $2" >&2; exit 1; }; }
    has_not() { ! grep -Eq "$1" <<<"$headers" || { echo "hardening: $2" >&2; exit 1; }; }
    has 'Type: +DYN' 'not position-independent'
    has_not 'INTERP|\(NEEDED\)' 'not static'
    has 'GNU_RELRO' 'relocations stay writable'
    has 'BIND_NOW' 'symbols are bound lazily'
    has 'GNU_STACK .* RW ' 'the stack is executable'
    has_not 'LOAD .* RWE ' 'a segment is writable and executable'
    echo "hardening: static PIE, RELRO, BIND_NOW, no executable stack"

# Builds the release binary twice, in two folders, and compares: the same sources make the same bytes.
reproducible: release-binary
    #!/usr/bin/env bash
    set -euo pipefail
    RUSTFLAGS="{{ release_flags }}" cargo build --release --locked --no-default-features --target {{ target }} \
        --target-dir target/again
    sha256sum {{ static_binary }} target/again/{{ target }}/release/tollgate
    cmp {{ static_binary }} target/again/{{ target }}/release/tollgate
    rm -rf target/again

# Benchmarks, as ratios in one run; the results stand in docs/PERFORMANCE.md. Needs curl and wrk.
bench: release-binary
    cargo bench --locked --bench herd
    cargo build --release --locked
    test -x target/witness/bin/python || python3 -m venv target/witness
    target/witness/bin/pip install --quiet --disable-pip-version-check -r tests/witness/requirements.txt
    target/witness/bin/python benches/measure.py target/release/tollgate {{ static_binary }}

# Builds every fuzz target and runs each for some seconds, from its seeds.
fuzz-smoke seconds="20":
    #!/usr/bin/env bash
    set -euo pipefail
    # The product's lock, so that the fuzzed code is the shipped code; cargo adds only libFuzzer's wrapper to it.
    cp Cargo.lock fuzz/Cargo.lock
    # No sanitizer: there is no unsafe code of ours to watch, and sanitizers would need a nightly toolchain.
    cargo fuzz build --sanitizer none
    targets=$(cargo fuzz list)
    [ -n "$targets" ]
    for target in $targets; do
        just fuzz "$target" {{ seconds }}
    done

# Fuzzes one target for some seconds. A finding is kept under fuzz/artifacts; put it into fuzz/seeds/TARGET.
fuzz target seconds="600":
    #!/usr/bin/env bash
    set -euo pipefail
    # libFuzzer writes what it learns into the first folder and only reads the second.
    folders=(fuzz/corpus/{{ target }})
    if [ -d fuzz/seeds/{{ target }} ]; then folders+=(fuzz/seeds/{{ target }}); fi
    mkdir -p "${folders[0]}"
    cargo fuzz run --sanitizer none {{ target }} "${folders[@]}" -- \
        -max_total_time={{ seconds }} -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1

# The emulator and the sidecar together: watch the gate open.
demo *args:
    cargo run --locked -- demo {{ args }}

# Independent witnesses: AWS's own client and other implementations of JOSE against the built binary.
witness:
    tests/witness/run
