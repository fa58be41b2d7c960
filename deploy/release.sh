#!/usr/bin/env bash
# Publishes what `just release` made: pushes images and charts into a registry, signs each, attaches provenance, and to the
# released images bill of materials and VEX, and signs the checksums. The workflow release.yml runs this script; you can run
# it by hand.
#
# Usage: deploy/release.sh FOLDER REGISTRY KEY
#   FOLDER    what `just release` filled: dist
#   REGISTRY  where to, without a scheme: registry.example/your-org. Log in first: `skopeo login` and `helm registry login`.
#   KEY       an EC P-256 key in PEM (`openssl ecparam -name prime256v1 -genkey -noout -out release.key`); RELEASE_KEY_PASSWORD is its
#             passphrase, where it has one.
#
# The registry of AWS Marketplace (ECR of account 709825985650) takes no signatures and no attestations: publish into a registry of yours,
# then copy the image from there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
fail() { echo "release.sh: $1" >&2; exit 1; }

[ $# = 3 ] || fail "usage: deploy/release.sh FOLDER REGISTRY KEY"
folder=$1 registry=${2%/} key=$(realpath "$3")
for tool in skopeo helm openssl python3 sha256sum; do
    command -v $tool >/dev/null || fail "$tool is missing"
done
case "$registry" in
    *://*) fail "$registry: leave the scheme out" ;;
    709825985650.dkr.ecr.*) fail "$registry: AWS Marketplace's registry takes no signatures; publish into a registry of yours, then copy the image" ;;
esac
cd "$folder"

# Every file is there and is the one that was built, and the changelog names this version and its last day of fixes.
sha256sum --quiet --strict --check SHA256SUMS || fail "the files are not those of SHA256SUMS: run \`just release\` again"
image=$(ls tollgate-[0-9]*-image.tar) && version=${image#tollgate-} && version=${version%-image.tar}
head -1 "tollgate-$version-changes.md" | grep -Eqx "## $version \(released [0-9-]{10}, security fixes until [0-9-]{10}\)" ||
    fail "the first heading of CHANGELOG.md is not of the form \"## $version (released YYYY-MM-DD, security fixes until YYYY-MM-DD)\""
pass=(); [ -z "${RELEASE_KEY_PASSWORD+set}" ] || pass=(-passin env:RELEASE_KEY_PASSWORD)
public=$(openssl pkey -in "$key" "${pass[@]}" -pubout 2>/dev/null) || fail "$3: no private key that openssl can read"
openssl pkey -pubin -noout -text <<<"$public" | grep -q prime256v1 || fail "$3: not an EC key over P-256"

# Whether the registry has the object that a command asks for. Every failure but "not found" is an error, because a
# version that is overlooked would be replaced.
has() {
    local said
    said=$("$@" 2>&1) && return
    grep -qiE 'manifest unknown|name unknown|not known|not found' <<<"$said" || fail "$said"
    return 1
}

# A version is published once: users must not get other bytes under the same version later. Publishing the same
# bytes again is allowed.
push_image() {
    local repository=$registry/$1 image=$1-$version-image.tar there
    if has skopeo inspect --raw "docker://$repository:$version"; then
        there=$(skopeo inspect --raw "docker://$repository:$version" | sha256sum)
        [ "sha256:${there%% *}" = "$(skopeo inspect --raw "oci-archive:$image" | sha256sum | sed 's/^/sha256:/; s/ .*//')" ] ||
            fail "$repository:$version exists and is another image: raise the version"
    fi
    skopeo copy --quiet --all --preserve-digests --digestfile image.digest "oci-archive:$image" "docker://$repository:$version"
    digest=$(cat image.digest) && rm image.digest
}

push_chart() {
    local name=$1 file=$2 there said
    there=$(mktemp -d)
    if has helm pull "oci://$registry/charts/$name" --version "$version" --destination "$there"; then
        cmp --silent "$there/$name-$version.tgz" "$file" || {
            rm -r "$there"
            fail "$registry/charts/$name:$version exists and is another chart: raise the version"
        }
    fi
    rm -r "$there"
    # Helm prints the digest on standard output or standard error, depending on its version.
    said=$(helm push "$file" "oci://$registry/charts" 2>&1) || fail "$file: $said"
    digest=$(sed -n 's/^Digest: *//p' <<<"$said")
    [ -n "$digest" ] || fail "$file: helm named no digest: $said"
}

sign() {
    python3 "$here/sign.py" image "$key" "$1" "$digest"
    python3 "$here/sign.py" attest "$key" "$1" "$digest" "${@:2}"
    echo "published: $1:$version@$digest"
}

provenance=https://slsa.dev/provenance/v1=tollgate-$version-provenance.json
push_image tollgate
sign "$registry/tollgate" "$provenance" "https://cyclonedx.org/bom=tollgate-$version.cdx.json" "https://openvex.dev/ns=tollgate-$version.openvex.json"
push_image tollgate-saas
sign "$registry/tollgate-saas" "$provenance" "https://cyclonedx.org/bom=tollgate-saas-$version.cdx.json" "https://openvex.dev/ns=tollgate-$version.openvex.json"
# With the emulator, for rehearsals: under names of their own, which say so in every state.
for name in tollgate-dev tollgate-saas-dev; do
    push_image $name
    sign "$registry/$name" "$provenance"
done
for name in tollgate tollgate-saas; do
    push_chart $name "$name-chart-$version.tgz"
    sign "$registry/charts/$name" "$provenance"
done
push_chart example "tollgate-example-chart-$version.tgz"
sign "$registry/charts/example" "$provenance"

openssl dgst -sha256 -sign "$key" "${pass[@]}" SHA256SUMS | base64 -w0 > SHA256SUMS.sig
echo "$public" > tollgate-release.pub
echo "published: SHA256SUMS.sig and tollgate-release.pub in $folder; publish the folder's files with tollgate-$version-changes.md as their notes"
