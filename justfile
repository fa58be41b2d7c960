# All commands for developers; .ci/run calls nothing else. `just` without arguments lists them.
# Tools beside cargo: `python3 -m pip install --require-hashes -r .ci/tools.txt`.

set shell := ["bash", "-euo", "pipefail", "-c"]

# The release image is for amd64 and arm64; the size budget holds for each.
target := `rustc -vV | sed -n 's/^host: //p'`
static_binary := "target" / target / "release/tollgate"
size_max_mib := "8"
saas_binary := static_binary + "-saas"
saas_size_max_mib := "10"
# Of an image unpacked, for each architecture: the binary's budget and half a MiB for CA roots, licences and notices.
image_max_mib := "8.5"
saas_image_max_mib := "10.5"
# Not optimised, so that this only notices when something comes in by mistake.
dev_image_max_mib := "48"
# The development images' binaries.
dev_static := "target/dev-static"

_list:
    @just --list --unsorted

# Everything quick: what to run before a commit.
check: fmt-check clippy fuzz-check tidy test

# Everything that a change must pass; CI runs this. The tests come last, so that their result is the last line.
ci: fmt-check clippy doc site crypto deny release-binary fuzz-smoke witness (kill-campaign "24") (kill-campaign "12" "saas") (kill-campaign "12" "contract") (replica-campaign "12") (meters-campaign "1") (chaos "short") memory packaging kubernetes release-test test

# Formats the sources.
fmt:
    cargo fmt
    cargo fmt --manifest-path fuzz/Cargo.toml

# Fails on unformatted sources, and on comments longer than 120 columns, which rustfmt leaves alone.
fmt-check:
    cargo fmt --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check
    if LC_ALL=C.UTF-8 grep -rnP --include='*.rs' '^(?=.{121}).* // |^(?=.{121})\s*//' src crates; then exit 1; else [ $? -eq 1 ]; fi

# Lints both builds: with the emulator, and as released.
clippy:
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo clippy --locked --package tollgate --no-default-features -- -D warnings

# Builds the documentation, private items too: every link between modules must resolve.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

# Builds the site of the documents, by mdBook, in target/site/book; every link and anchor must resolve. Needs no network.
site:
    python3 site/build.py mdbook target/site

# Draws the pictures of the documents again; `site` checks that they are current.
pictures:
    python3 site/pictures.py

# Takes the documents' screenshots of the emulator's page again, and draws the dashboard again, by the browser tests.
screenshots:
    cargo build --locked
    PICTURES="$PWD/docs/images" tests/witness/run target/debug/tollgate page dashboard

# All tests and documentation tests: the README's command.
test:
    cargo test --locked

# Runs the tests (not those in documentation), each in a process of its own, and ends hung ones: `just nextest -E 'test(name)'`.
nextest *args:
    cargo nextest run --locked {{ args }}

# Checks the house rules (imports, module docs, names, documents), and that generated files are current. Seconds; part of `test`.
tidy:
    cargo test --locked --test tidy --test generated

# Writes the generated files, from the table of settings, docs/openapi.yaml, `cargo metadata` and others. `tidy` checks them.
generate:
    GENERATE=1 cargo test --locked --test generated current

# Draws the picture of the crates in docs/ARCHITECTURE.md again.
alias graph := generate

# Kills the binary under load, at random, by evictions and at the steps that the campaign lists, and compares the bill, or (contract) the seats that are held.
kill-campaign kills="200" mode="metered" seed="":
    #!/usr/bin/env bash
    set -euo pipefail
    # Both programs, though one is used: as for `replica-campaign`, so that CI compiles them once.
    cargo build --locked --package tollgate --package tollgate-saas --features fail-points,tollgate-saas/fail-points
    cp target/debug/tollgate target/tollgate-fail-points
    if [ {{ mode }} = contract ]; then
        python3 tests/campaign/seats.py target/tollgate-fail-points {{ kills }} {{ seed }}
    else
        python3 tests/campaign/kill.py target/tollgate-fail-points {{ mode }} {{ kills }} {{ seed }}
    fi

# Makes faults at two or three replicas of tollgate-saas and their PostgreSQL, and compares the bill. Root, nft; `just replica-campaign 1000 "" kill` for one kind.
replica-campaign faults="100" seed="" *kinds:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --locked --package tollgate --package tollgate-saas --features fail-points,tollgate-saas/fail-points
    cp target/debug/tollgate target/tollgate-replicas
    cp target/debug/tollgate-saas target/tollgate-saas-replicas
    python3 tests/campaign/rig.py
    python3 tests/campaign/replicas.py target/tollgate-replicas target/tollgate-saas-replicas {{ faults }} "{{ seed }}" {{ kinds }}

# Simulates random days of metering by rules (`[dimension.NAME]`), with restarts, kills and jumps of the clock, and compares the bill with that of a model.
meters-campaign days="7" seed="":
    cargo build --locked
    cp target/debug/tollgate target/tollgate-meters
    python3 tests/campaign/meter_tables.py
    python3 tests/campaign/meters.py target/tollgate-meters metered {{ days }} {{ seed }}
    python3 tests/campaign/meters.py target/tollgate-meters saas {{ days }} {{ seed }}

# Simulates days of metering with restarts and a bad neighbour: memory and files must not grow, and the bill must be exact.
soak days="8":
    cargo build --locked
    cp target/debug/tollgate target/tollgate-soak
    python3 tests/campaign/soak.py target/tollgate-soak {{ days }}

# Makes real faults and compares with the documents: network, names, TLS, hostile clients, memory, files, clock. Root, nft; `just chaos short` for CI.
chaos *rows:
    cargo build --locked
    cp target/debug/tollgate target/tollgate-chaos
    python3 tests/chaos/chaos.py target/tollgate-chaos {{ rows }}

# Reports usage that needs much memory, in a cgroup of 32 MiB (root): for CI, with fewer customers than `bench-memory` and a debug build.
memory *cases:
    cargo build --locked
    cp target/debug/tollgate target/tollgate-memory
    python3 benches/memory.py target/tollgate-memory short {{ cases }}

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
            # `cargo tree -i` fails if the crate is absent, as it should be; any other failure is an error.
            if found=$(cargo tree --locked --workspace --target all --edges all $features --invert "$crate" 2>&1); then
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

# Flags of the release build: static; relocations packed (half a megabyte less, which every start had to read); no path of the
# machine that built it.
release_flags := "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs --remap-path-prefix=" + env("CARGO_HOME", home_directory() / ".cargo") + \
    "=/cargo --remap-path-prefix=" + justfile_directory() + "=/tollgate"
# Also, for amd64 alone: no tables for unwinding (a megabyte; a program by the linker for arm64 needs them at its start), and the code of a start
# and of a sidecar at rest together, so that it holds 4.7 MiB in memory instead of 7.
amd64_layout := " -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-T,deploy/no-unwinding.ld -C link-arg=-Wl,-T,deploy/code-order.ld"
# More than three are. The linker passes over names that are not there: by a compiler that names otherwise none would be placed.
ordered_code_min_mib := "2"

# The static binary of the release image (no emulator), within its size budget and hardened.
release-binary: (_release-binary "tollgate" static_binary size_max_mib)

# The same for tollgate-saas, which has the PostgreSQL ledger.
release-binary-saas: (_release-binary "tollgate-saas" saas_binary saas_size_max_mib)

_release-binary package binary mib:
    #!/usr/bin/env bash
    set -euo pipefail
    # Cargo does not know by which scripts it links.
    [ -z "$(find deploy -name '*.ld' -newer {{ binary }} 2>/dev/null)" ] || touch src/lib.rs
    # An explicit target keeps the flags from build scripts and procedural macros, which cannot be static. cargo-auditable writes the list
    # of crates into the binary, for scanners.
    RUSTFLAGS="{{ release_flags + amd64_layout }}" cargo auditable build --release --locked --package {{ package }} --no-default-features --target {{ target }}
    bytes=$(stat -c %s {{ binary }})
    echo "release binary {{ package }}: $bytes bytes of at most $(({{ mib }} * 1024 * 1024))"
    [ "$bytes" -le $(({{ mib }} * 1024 * 1024)) ]
    just hardening {{ binary }}
    ordered=0$(readelf --section-headers --wide {{ binary }} | sed -nE 's/.* \.text\.start +PROGBITS +\w+ \w+ (\w+) .*/\1/p')
    echo "ordered code: $((16#$ordered)) bytes of at least $(({{ ordered_code_min_mib }} * 1024 * 1024))"
    [ $((16#$ordered)) -ge $(({{ ordered_code_min_mib }} * 1024 * 1024)) ] || { echo "deploy/code-order.ld is out of date: run \`just code-order\`" >&2; exit 1; }

# Writes the order of the release's code anew, after changes that move much of it. Needs valgrind, openssl and a C compiler.
code-order:
    #!/usr/bin/env bash
    set -euo pipefail
    RUSTFLAGS="{{ release_flags + amd64_layout }} -C link-arg=-Wl,-Map=target/code-order.map -C link-arg=-Wl,--no-demangle" CARGO_PROFILE_RELEASE_STRIP=none \
        cargo build --release --locked --package tollgate --no-default-features --target {{ target }} --target-dir target/code-order
    python3 benches/code_order.py target/code-order/{{ target }}/release/tollgate target/code-order.map > target/code-order.ld
    mv target/code-order.ld deploy/code-order.ld

# Static, position-independent, relocations read-only, no executable stack: what the release notes promise of the binary.
# (Rust links static programs for arm64 at a fixed address: no PIE there, so nothing to bind lazily either.)
hardening program=static_binary position="independent":
    #!/usr/bin/env bash
    set -euo pipefail
    headers=$(readelf --file-header --program-headers --dynamic --wide {{ program }})
    has() { grep -Eq "$1" <<<"$headers" || { echo "hardening: $2" >&2; exit 1; }; }
    has_not() { ! grep -Eq "$1" <<<"$headers" || { echo "hardening: $2" >&2; exit 1; }; }
    if [ {{ position }} = independent ]; then
        has 'Type: +DYN' 'not position-independent'
        has 'BIND_NOW' 'symbols are bound lazily'
    fi
    has_not 'INTERP|\(NEEDED\)' 'not static'
    has 'GNU_RELRO' 'relocations stay writable'
    has 'GNU_STACK .* RW ' 'the stack is executable'
    has_not 'LOAD .* RWE ' 'a segment is writable and executable'
    echo "hardening: static, position {{ position }}, RELRO, no executable stack"

# The static binary for arm64, with Debian's cross toolchain (rustc-web, libstd-rust-web-dev:arm64, gcc-aarch64-linux-gnu).
release-binary-arm64: (_release-binary-arm64 "tollgate" arm64_binary size_max_mib)

# The same for tollgate-saas.
release-binary-saas-arm64: (_release-binary-arm64 "tollgate-saas" (arm64_binary + "-saas") saas_size_max_mib)

_release-binary-arm64 package binary mib:
    #!/usr/bin/env bash
    set -euo pipefail
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
    export AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar RUSTC=/usr/bin/rustc RUSTFLAGS="{{ release_flags }}"
    /usr/bin/cargo auditable build --release --locked --package {{ package }} --no-default-features --target aarch64-unknown-linux-gnu --target-dir target/arm64
    bytes=$(stat -c %s {{ binary }})
    echo "release binary {{ package }} for arm64: $bytes bytes of at most $(({{ mib }} * 1024 * 1024))"
    [ "$bytes" -le $(({{ mib }} * 1024 * 1024)) ]
    just hardening {{ binary }} fixed
    # It runs: under emulation, where this machine is no arm64.
    if command -v qemu-aarch64-static >/dev/null; then
        qemu-aarch64-static {{ binary }} --version
    else
        echo "release binary {{ package }} for arm64: not run, qemu-user-static is not installed"
    fi

arm64_binary := "target/arm64/aarch64-unknown-linux-gnu/release/tollgate"

# Writes what the images are built from into dist/image: a tree for each architecture whose binary was built.
image-context:
    #!/usr/bin/env bash
    set -euo pipefail
    rm -rf dist/image && mkdir -p dist/image/state
    tree() {
        [ -x "$2" ] || return 0
        # Each image has the licences of its own crates.
        local name notices=THIRD-PARTY-NOTICES.txt
        name=$(basename "$2")
        [ "$name" = tollgate ] || notices=crates/saas/THIRD-PARTY-NOTICES.txt
        install -D -m 0755 "$2" "dist/image/$1/$name"
        install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "dist/image/$1/etc/ssl/certs/ca-certificates.crt"
        install -d -m 0755 "dist/image/$1/usr/share/tollgate" "dist/image/$1/var/lib"
        # Texts that third-party licences require: see the head of THIRD-PARTY-NOTICES.txt.
        install -d -m 0755 "dist/image/$1/usr/share/doc/tollgate"
        install -m 0644 LICENSE "$notices" /usr/share/common-licenses/LGPL-2.1 "dist/image/$1/usr/share/doc/tollgate"
        install -m 0644 /usr/share/doc/libc6/copyright "dist/image/$1/usr/share/doc/tollgate/glibc-copyright"
    }
    tree amd64 {{ static_binary }}
    tree arm64 {{ arm64_binary }}
    tree saas-amd64 {{ saas_binary }}
    tree saas-arm64 {{ arm64_binary }}-saas
    tree dev-amd64 {{ dev_static }}/tollgate
    tree saas-dev-amd64 {{ dev_static }}/tollgate-saas
    # Symbols are more than half of the file.
    for binary in dist/image/dev-amd64/tollgate dist/image/saas-dev-amd64/tollgate-saas; do
        [ ! -x $binary ] || strip $binary
    done
    # The same tree always makes the same layer.
    find dist/image -exec touch --no-dereference --date=@0 {} +
    ls dist/image

version := `sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1`
revision := `git rev-parse --short=12 HEAD 2>/dev/null || echo unknown`

# Builds the release image of each architecture whose binary was built, as one manifest and OCI archive in dist/; twice, to compare.
image: (_archive "tollgate" "" "deploy/Dockerfile" image_max_mib)

# Builds the image of tollgate-saas in the same way.
image-saas: (_archive "tollgate-saas" "saas-" "deploy/Dockerfile.saas" saas_image_max_mib)

# Builds the development image in the same way. Beside `image` in one call, it comes after `dev-binary`.
image-dev-archive: dev-binary (_archive "tollgate-dev" "dev-" "deploy/Dockerfile.dev" dev_image_max_mib)

# Builds the development image of tollgate-saas in the same way.
image-saas-dev-archive: dev-binary (_archive "tollgate-saas-dev" "saas-dev-" "deploy/Dockerfile.saas-dev" dev_image_max_mib)

_archive name tree dockerfile mib: image-context
    #!/usr/bin/env bash
    set -euo pipefail
    # Each build has a storage of its own: nothing of an earlier build can leak into it.
    store=$(mktemp -d) && trap 'rm -rf "$store"' EXIT
    build() {
        local in_store=(buildah --root "$store/$1/root" --runroot "$store/$1/run" --storage-driver vfs) built=()
        for arch in amd64 arm64; do
            [ -d "dist/image/{{ tree }}$arch" ] || continue
            "${in_store[@]}" bud --quiet --format docker --timestamp 0 --platform "linux/$arch" --build-arg "TARGETARCH=$arch" \
                --build-arg "VERSION={{ version }}" --build-arg "REVISION={{ revision }}" --tag "{{ name }}:$arch" \
                --file {{ dockerfile }} dist/image >/dev/null
            "${in_store[@]}" push --quiet "{{ name }}:$arch" "dir:$store/$1/$arch"
            built+=("$arch=$store/$1/$arch")
        done
        [ ${#built[@]} -gt 0 ] || { echo "image: no binary for {{ name }}; run \`just release-binary release-binary-saas dev-binary\`" >&2; return 1; }
        python3 deploy/image.py "$store/$1.tar" {{ version }} {{ mib }} "${built[@]}"
    }
    build first
    build second >/dev/null
    cmp "$store/first.tar" "$store/second.tar" || { echo "image: two builds differ" >&2; exit 1; }
    archive=dist/{{ name }}-{{ version }}-image.tar
    mv "$store/first.tar" "$archive"
    echo "image: the same bytes twice; $archive"

# Builds the development images' binaries: static, with the emulator, unoptimised. Only the link is static, by a flag for the program alone: in RUSTFLAGS it would
# compile every crate once more, and what they compile to is the same.
dev-binary: (_dev-binary "tollgate") (_dev-binary "tollgate-saas")

_dev-binary package:
    cargo rustc --locked --package {{ package }} --bin {{ package }} -- -C target-feature=+crt-static
    install -D target/debug/{{ package }} {{ dev_static }}/{{ package }}
    just hardening {{ dev_static }}/{{ package }}

# Builds 0.1.0, from which the test of an upgrade starts: its charts, and its binary with the emulator. A checkout need not have a history, so
# the sources are in the tree, made by: git archive ae060240622d Cargo.toml Cargo.lock .cargo src helm benches | gzip -9n
first-release:
    #!/usr/bin/env bash
    set -euo pipefail
    folder=target/first-release
    if [ ! -e $folder/source ]; then
        rm -rf $folder && mkdir -p $folder/part
        tar -xzf tests/kubernetes/first-release.tar.gz -C $folder/part
        # It is not a member of the workspace around it.
        printf '\n[workspace]\n' >> $folder/part/Cargo.toml
        mv $folder/part $folder/source
    fi
    # In our own target folder: most dependencies are the same, and compiled already.
    cargo rustc --locked --manifest-path $folder/source/Cargo.toml --bin tollgate --target-dir target -- -C target-feature=+crt-static
    strip -o $folder/tollgate target/debug/tollgate
    # Nobody may take 0.1.0 for our own program; the next build puts that there.
    rm target/debug/tollgate

# Builds the development image in docker.
image-dev: dev-binary image-context
    docker build --tag tollgate-dev --build-arg VERSION={{ version }} --build-arg REVISION={{ revision }} --file deploy/Dockerfile.dev dist/image

# Runs emulator, sidecar and an application in containers: the application starts when the gate opens. Ctrl-C ends them.
compose: image-dev
    docker-compose --file deploy/compose.yaml up

# Builds the image of tollgate-saas with the emulator in docker.
image-saas-dev: dev-binary image-context
    docker build --tag tollgate-saas-dev --build-arg VERSION={{ version }} --build-arg REVISION={{ revision }} --file deploy/Dockerfile.saas-dev dist/image

# Runs PostgreSQL, two replicas of tollgate-saas, the emulator and a load generator, which ends with the bill compared with what it sent.
compose-saas: image-saas-dev
    docker-compose --file deploy/saas/compose.yaml up --exit-code-from load

# Builds the images twice, and tests charts, manifests, task definitions, alert rules and real containers.
packaging: release-binary release-binary-saas dev-binary image image-saas
    tests/packaging/run

# Runs charts and manifests on a real Kubernetes, or some scenarios: `just kubernetes jobs_end`. KUBERNETES_VERSION=1.34.4 chooses another version.
kubernetes *scenarios: release-binary first-release dev-binary image-context
    tests/kubernetes/run {{ scenarios }}

# Writes the scripts by which shells complete the released program's commands into dist/.
completions:
    #!/usr/bin/env bash
    set -euo pipefail
    stage=$(mktemp -d) && trap 'rm -rf "$stage"' EXIT
    mkdir -p dist "$stage/completions"
    for shell in bash zsh fish; do
        cargo run --quiet --locked --package tollgate --no-default-features --features completions -- completions "$shell" > "$stage/completions/tollgate.$shell"
    done
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s -czf dist/tollgate-{{ version }}-completions.tgz -C "$stage" completions

# Writes the alert rules into the library chart.
chart-rules:
    python3 tests/packaging/chart_rules.py

# Builds all files of a release into dist/, without a network (run `cargo fetch` before): binaries, images, charts, SBOM, provenance, checksums.
release:
    #!/usr/bin/env bash
    set -euo pipefail
    # The changelog's first heading must be this version, or Unreleased.
    heading=$(sed -n 's/^## //p' CHANGELOG.md | head -1)
    case "$heading" in
        "{{ version }}"* | Unreleased) ;;
        *) echo "release: CHANGELOG.md begins with '$heading', Cargo.toml says {{ version }}" >&2; exit 1 ;;
    esac
    rm -rf dist
    export CARGO_NET_OFFLINE=true TOLLGATE_REVISION={{ revision }}
    just release-binary release-binary-saas release-binary-arm64 release-binary-saas-arm64 dev-binary \
        image image-saas image-dev-archive image-saas-dev-archive sbom provenance completions release-files
    rm -rf dist/image

# Makes the files of a release from what is built: names with the version, archives that are the same each time, checksums.
release-files:
    #!/usr/bin/env bash
    set -euo pipefail
    install -m 0755 {{ static_binary }} dist/tollgate-{{ version }}-linux-amd64
    # The test of publishing has one architecture; `just release` has built both.
    [ ! -x {{ arm64_binary }} ] || install -m 0755 {{ arm64_binary }} dist/tollgate-{{ version }}-linux-arm64
    install -m 0755 {{ saas_binary }} dist/tollgate-saas-{{ version }}-linux-amd64
    [ ! -x {{ arm64_binary }}-saas ] || install -m 0755 {{ arm64_binary }}-saas dist/tollgate-saas-{{ version }}-linux-arm64
    # With the emulator: what a seller writes a gate's files with, and rehearses by.
    install -m 0755 dist/image/dev-amd64/tollgate dist/tollgate-dev-{{ version }}-linux-amd64
    install -m 0644 deploy/tollgate.openvex.json dist/tollgate-{{ version }}.openvex.json
    awk '/^## / { part++ } part == 1' CHANGELOG.md > dist/tollgate-{{ version }}-changes.md
    pack() { tar --exclude=__pycache__ --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s -czf "dist/$1-{{ version }}.tgz" -C "$2" "$3" && touch --date=@0 "dist/$1-{{ version }}.tgz"; }
    pack tollgate-chart helm tollgate
    pack tollgate-saas-chart helm tollgate-saas
    # AWS accepts a chart only with its dependencies inside.
    stage=$(mktemp -d) && trap 'rm -rf "$stage"' EXIT
    cp -r helm/example "$stage/" && rm -rf "$stage/example"/{charts,Chart.lock} && mkdir "$stage/example/charts" && cp -r helm/tollgate "$stage/example/charts/"
    pack tollgate-example-chart "$stage" example
    pack tollgate-deploy . deploy
    # The licences of what is linked statically and of the certificates, from this machine's packages.
    mkdir "$stage/licences"
    install -m 0644 crates/saas/THIRD-PARTY-NOTICES.txt "$stage/licences/THIRD-PARTY-NOTICES-saas.txt"
    install -m 0644 LICENSE THIRD-PARTY-NOTICES.txt /usr/share/common-licenses/LGPL-2.1 "$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html" "$stage/licences/"
    for package in libc6 libgcc-s1 ca-certificates; do install -m 0644 "/usr/share/doc/$package/copyright" "$stage/licences/$package-copyright"; done
    pack tollgate-licences "$stage" licences
    (cd dist && sha256sum tollgate-* > SHA256SUMS && cat SHA256SUMS)

# Writes the software bills of materials (CycloneDX), from Cargo.lock alone.
sbom:
    mkdir -p dist
    for package in tollgate tollgate-saas; do python3 tests/packaging/sbom.py $package > dist/$package-{{ version }}.cdx.json; done

# Writes how the release is built, as SLSA provenance: revision, tools, files.
provenance:
    mkdir -p dist
    python3 deploy/provenance.py {{ version }} > dist/tollgate-{{ version }}-provenance.json

# Publishes what is built into a registry on loopback with a key made for it, and verifies all of it by the commands of docs/VERIFY.md.
release-test: release-binary release-binary-saas dev-binary image image-saas image-dev-archive image-saas-dev-archive sbom
    #!/usr/bin/env bash
    set -euo pipefail
    # Provenance names a commit; a checkout without its repository gets one for this test.
    if ! git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
        export GIT_DIR=$PWD/target/release-test.git GIT_WORK_TREE=$PWD
        git init --quiet
        git -c user.name=test -c user.email=test@example.com commit --quiet --allow-empty --message "Nothing but a name for this checkout"
    fi
    just provenance release-files
    tests/release/run

# Builds the release binary twice, in two folders, and compares: the same sources make the same bytes.
reproducible: release-binary
    #!/usr/bin/env bash
    set -euo pipefail
    RUSTFLAGS="{{ release_flags + amd64_layout }}" cargo auditable build --release --locked --package tollgate --no-default-features --target {{ target }} \
        --target-dir target/again
    sha256sum {{ static_binary }} target/again/{{ target }}/release/tollgate
    cmp {{ static_binary }} target/again/{{ target }}/release/tollgate
    rm -rf target/again

# Runs the benchmarks, as ratios in one run; the results are in docs/PERFORMANCE.md. Needs curl, wrk and a C compiler.
bench: release-binary
    cargo bench --locked --bench herd
    cargo build --release --locked --package tollgate
    test -x target/witness/bin/python || python3 -m venv target/witness
    target/witness/bin/pip install --quiet --disable-pip-version-check -r tests/witness/requirements.txt -c tests/witness/requirements.lock
    target/witness/bin/python benches/measure.py target/release/tollgate {{ static_binary }}
    just bench-emulator
    just bench-start
    just bench-serving
    just bench-usage
    just bench-sending
    just bench-memory
    just bench-replicas

# Measures the emulator's signatures beside openssl's, and a world of 100,000 customers: `just bench-emulator world`. Needs wrk, openssl.
bench-emulator *parts:
    cargo build --release --locked --package tollgate
    python3 benches/emulator.py target/release/tollgate {{ parts }}

# Measures start, round trips and exec probe beside C programs that do the least. Needs a C compiler, libcrypto's headers, openssl, curl.
bench-start: release-binary
    python3 benches/start.py {{ static_binary }}

# Measures probes beside bare hyper, memory after a day of them, and the CPU of an idle day. Needs wrk and two cores.
bench-serving: release-binary
    cargo build --release --locked --package tollgate
    cargo build --release --locked --package tollgate-http --example bare_hyper
    python3 benches/serving.py target/release/tollgate {{ static_binary }} target/release/examples

# Measures the emulator's speed and the durable intake, or some of it: `just bench-usage intake`. Needs wrk, openssl, a C compiler.
bench-usage *parts:
    cargo build --release --locked --package tollgate
    cargo build --release --locked --package tollgate --example bare_ledger --example load
    python3 benches/usage.py target/release/tollgate target/release/examples {{ parts }}

# Measures how fast sealed usage is sent at 300 ms a call, and how much a stop sends in its time: `just bench-sending rate`. Needs a C compiler.
bench-sending *parts:
    cargo build --release --locked --package tollgate
    python3 benches/sending.py target/release/tollgate {{ parts }}

# Measures what replicas of tollgate-saas take and what their PostgreSQL pays: `just bench-replicas hour`. Needs PostgreSQL; 10 minutes.
bench-replicas *parts:
    cargo build --release --locked --package tollgate --package tollgate-saas
    cargo build --release --locked --example load
    python3 benches/replicas.py target/release/tollgate target/release/tollgate-saas target/release/examples {{ parts }}

# Reports usage that needs much memory, in a cgroup of 32 MiB (root), with kills; takes 15 minutes: `just bench-memory accounts`.
bench-memory *cases:
    cargo build --release --locked --package tollgate
    python3 benches/memory.py target/release/tollgate {{ cases }}

# Compiles the fuzz targets without instrumentation: no other recipe of `check` notices when a change breaks them.
fuzz-check:
    cp Cargo.lock fuzz/Cargo.lock
    cargo check --manifest-path fuzz/Cargo.toml

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
    # Each needs one core. What it printed is shown when it has ended; 255 starts no further one.
    logs=target/fuzz && mkdir -p $logs
    one() { just fuzz "$1" "$2" >"$3/$1" 2>&1 && code=0 || code=255; echo "fuzz: $1"; cat "$3/$1"; exit $code; }
    export -f one
    printf '%s\n' $targets | xargs -P "$(nproc)" -I TARGET bash -c "one TARGET {{ seconds }} $logs"

# Fuzzes one target for some seconds. A finding is kept under fuzz/artifacts; put it into fuzz/seeds/TARGET.
fuzz target seconds="600":
    #!/usr/bin/env bash
    set -euo pipefail
    # libFuzzer writes what it learns into the first folder and only reads the second.
    folders=(fuzz/corpus/{{ target }})
    if [ -d fuzz/seeds/{{ target }} ]; then folders+=(fuzz/seeds/{{ target }}); fi
    mkdir -p "${folders[0]}"
    # The credentials with which the target `answers` signs its calls; nothing checks them.
    export AWS_ACCESS_KEY_ID=fuzz AWS_SECRET_ACCESS_KEY=fuzz AWS_EC2_METADATA_DISABLED=true
    cargo fuzz run --sanitizer none {{ target }} "${folders[@]}" -- \
        -max_total_time={{ seconds }} -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1

# Runs the emulator and sidecars together, and shows how the gate opens.
demo *args:
    cargo run --locked --package tollgate -- demo {{ args }}

# Tests the built binary with independent witnesses: AWS's own clients, other implementations of JOSE, a browser and more.
witness:
    tests/witness/run
