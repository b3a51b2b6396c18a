#!/usr/bin/env bash
# Builds the container image and tests it with a read-only root, as a non-root user and without capabilities.
#
#   tests/image.sh                         run by hand, because it takes a minute or two; pytest does not run it
#   BASE=python:3.14-slim tests/image.sh   with another base image
#
# Needs Linux, root, buildah, podman and runc, and network access for the base image and the dependencies. If the base
# image cannot be pulled, debootstrap builds a substitute with the same Debian release and Python, from the mirror that
# apt uses. The build can read a CA bundle named by PIP_CERT, REQUESTS_CA_BUNDLE or SSL_CERT_FILE.
# Images and containers are in a temporary directory that is deleted at the end. Nothing else on the machine changes.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
base=${BASE:-$(sed -n 's/^ARG BASE=//p' "$repository/Dockerfile")}
image=localhost/braze-exporter
container=braze-exporter

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "must run as root"
for tool in buildah podman runc; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

work=$(mktemp -d)
# Storage without mounts and a build without namespaces also work inside another container.
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
# No systemd timers, because this script runs the health check.
export DISABLE_HC_SYSTEMD=true
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
podman() {
    command podman --root "$work/storage" --runroot "$work/run" --tmpdir "$work/tmp" \
        --cgroup-manager=cgroupfs --runtime runc "$@"
}
run() {
    podman run --network=none --read-only --read-only-tmpfs=false --cap-drop=ALL --security-opt=no-new-privileges \
        --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"
}
clean_up() {
    podman rm --all --force --time 0 >/dev/null 2>&1 || true
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

build_substitute() {
    command -v debootstrap >/dev/null || fail "$base cannot be pulled, and debootstrap is not installed"
    local mirror
    # shellcheck disable=SC2016  # apt-get expands these
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 'Component: main' 2>/dev/null |
        sed -n 's/^Debian //p' | head -n 1) || true
    # The release of the official image. Without a mirror, debootstrap uses its default.
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$work/debian" \
        ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 || fail "debootstrap: $(tail -n 3 "$work/debootstrap.log")"
    rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/*
    base=localhost/substitute
    tar -C "$work/debian" -c . | podman import --quiet - "$base" >/dev/null
    rm -rf --one-file-system "$work/debian"
}

if buildah pull --quiet "$base" >"$work/pull.log" 2>&1; then
    say "pulled $base"
else
    say "$base cannot be pulled: $(tail -n 1 "$work/pull.log")"
    build_substitute
    say "built a substitute with debootstrap"
fi

arguments=(--build-arg "BASE=$base")
certificates=${PIP_CERT:-${REQUESTS_CA_BUNDLE:-${SSL_CERT_FILE:-}}}
if [ -n "$certificates" ]; then
    arguments+=(--secret "id=ca,src=$(realpath "$certificates")" --build-arg PIP_CERT=/run/secrets/ca)
fi
if [ -n "${PIP_INDEX_URL:-}" ]; then
    arguments+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL")
fi
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$repository/braze_exporter/__init__.py")
build() {
    # The Docker format, because the OCI format has no health check.
    buildah build --format docker --layers --pull-never "${arguments[@]}" --build-arg "VERSION=$version" --build-arg REVISION=0a1b2c3 \
        --tag "$image" "$repository" >"$work/build.log" 2>&1 || fail "the build: $(tail -n 30 "$work/build.log")"
}
build
say "built the image"
build
cached=$(grep -c 'Using cache' "$work/build.log") || fail "a second build used no cached layers"
say "built it again: $cached cached steps"

# Contents of the image.
size() { podman image inspect --format '{{.Size}}' "$1"; }
label() { podman image inspect --format "{{index .Labels \"org.opencontainers.image.$1\"}}" "$image"; }
megabytes() { awk "BEGIN { printf \"%.1f MB\", ($1) / 1e6 }"; }
say "size: $(megabytes "$(size "$image")"), $(megabytes "$(size "$image") - $(size "$base")") more than the base image"

files() {
    local from root
    from=$(buildah from --pull-never "$1")
    root=$(buildah mount "$from")
    (cd "$root" && find . -xdev \( -type f -o -type l \)) | sort
    buildah rm "$from" >/dev/null
}
files "$base" >"$work/base.files"
files "$image" >"$work/image.files"
comm -13 "$work/base.files" "$work/image.files" >"$work/added.files"
! grep -E '/bin/(cc|c\+\+|gcc|g\+\+|clang|ld|make|pip|hatchling)[-0-9.]*$|/(pip|hatchling)/__init__\.py$' \
    "$work/image.files" || fail "the image contains build tools"
! grep -E '\.whl$|/\.cache/|^\./(build|tools|tmp|root|run|var)/' "$work/added.files" ||
    fail "the image contains files of the build"
say "no compiler, pip, wheels or build files; $(wc -l <"$work/added.files") files more than the base image"

[ "$(label version)" = "$version" ] || fail "the version label is $(label version), and the program has version $version"
[ "$(run --rm "$image" --version)" = "braze-exporter $version" ] || fail "--version is not $version"
run --rm --entrypoint python "$image" -c "import bcrypt" || fail "bcrypt is missing: the image cannot check passwords"
say "version $version, license $(label licenses)"

# Without a config, the default command names the expected path.
code=0
message=$(run --rm "$image" 2>&1) || code=$?
[ "$code" = 1 ] || fail "without a config, the exit code is $code: $message"
[[ $message == *"/etc/braze-exporter/config.yaml"* ]] || fail "without a config, the message is: $message"
say "without a config: exit code 1, \"$message\""

if [ -f "$repository/config.example.yaml" ]; then
    install -m 644 "$repository/config.example.yaml" "$work/config.yaml"
    checked=$(run --rm --volume "$work/config.yaml:/etc/braze-exporter/config.yaml:ro" "$image" check 2>&1) ||
        fail "check of config.example.yaml: $checked"
    say "check: $(grep 'is valid' <<<"$checked")"
else
    say "config.example.yaml not found: not checked"
fi

# Run the demo. The volume and the second config are for the test with many counters below.
install -d -o 65534 -g 65534 "$work/state"
{
    printf 'workspaces:\n  - name: production\n    url: http://127.0.0.1:8080\n    api_key_env: BRAZE_API_KEY\n'
    printf '    custom_events:\n      - event: product_viewed\n'
    printf '      - event: event %d\n' {1..499}
    printf 'refresh_interval: {hour: 10s}\nbudget: {share: 1}\nstate_file: /var/lib/braze-exporter/state.sqlite\n'
} >"$work/many.yaml"
chmod 644 "$work/many.yaml"
run --detach --name "$container" --volume "$work/state:/var/lib/braze-exporter" \
    --volume "$work/many.yaml:/etc/braze-exporter/many.yaml:ro" "$image" \
    demo --braze.listen-address=127.0.0.1:8080 >/dev/null
deadline=$((SECONDS + 30))
until podman healthcheck run "$container" >"$work/health.log" 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not healthy: $(cat "$work/health.log"; podman logs "$container" 2>&1)"
    sleep 0.2
done
say "the image's own health check passes"

inside() { podman exec "$container" python -I -c "$1"; }
inside '
import os
status = dict(line.split(":\t", 1) for line in open("/proc/1/status").read().splitlines())
assert status["Uid"].split() == ["65534"] * 4, status["Uid"]
assert status["Gid"].split() == ["65534"] * 4, status["Gid"]
assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, status["CapEff"]
assert b"/braze-exporter\0demo" in open("/proc/1/cmdline", "rb").read()
assert os.statvfs("/").f_flag & os.ST_RDONLY
' || fail "process 1 is not the exporter, or has unneeded privileges"
say "process 1 is the exporter: 65534:65534, no capabilities, a read-only root"

get='
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 27293, timeout=20)
connection.request("GET", "PATH")
response = connection.getresponse()
assert response.status == 200, response.status
print(response.read().decode(), end="")
'
[ "$(inside "${get/PATH//-/healthy}")" = "Healthy." ] || fail "/-/healthy"
inside "${get/PATH//metrics}" >"$work/metrics" || fail "/metrics"
grep -q '^braze_exporter_build_info{.*revision="0a1b2c3"' "$work/metrics" || fail "/metrics has no revision of the build"
grep -q '^braze_up{.*} 1\.0$' "$work/metrics" || fail "/metrics has no braze_up of 1: $(head -n 20 "$work/metrics")"
say "/-/healthy and /metrics respond: $(grep -c '^braze_' "$work/metrics") samples, braze_up 1"

# Test many counters with the state volume as the only writable place, so without a temporary directory.
key=$(podman logs "$container" | sed -n 's/^REST API key: *//p')
get_many=${get/27293/27294}
start_many() {
    podman exec --detach --env "BRAZE_API_KEY=$key" "$container" braze-exporter serve \
        --config.file=/etc/braze-exporter/many.yaml --web.listen-address=127.0.0.1:27294 >/dev/null
}
# Prints the counter of product_viewed from the first page that has all counters.
scrape_many() {
    local deadline=$((SECONDS + 60))
    until inside "${get_many/PATH//metrics}" >"$work/many" 2>"$work/many.log" &&
        [ "$(grep -c '^braze_custom_events_total{' "$work/many")" = 500 ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "500 counters: $(tail -n 3 "$work/many.log" "$work/many")"
        sleep 0.5
    done
    grep -q '^braze_exporter_state_write_failures_total 0\.0$' "$work/many" || fail "500 counters: writing them failed"
    sed -n 's/^braze_custom_events_total{.*"product_viewed".*} //p' "$work/many"
}
at_least() { awk "BEGIN { exit !($1 >= $2) }"; }
start_many
deadline=$((SECONDS + 120))
while total=$(scrape_many) || exit 1; ! at_least "$total" 1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "500 counters: they do not increase"
    sleep 1
done
inside '
import glob, os, signal
for path in glob.glob("/proc/[0-9]*/cmdline"):
    if b"--config.file=/etc/braze-exporter/many.yaml" in open(path, "rb").read().split(b"\0"):
        os.kill(int(path.split("/")[2]), signal.SIGKILL)
'
start_many
again=$(scrape_many)
at_least "$again" "$total" || fail "500 counters: $total before kill -9, $again after it"
say "500 counters increase and survive kill -9 ($total, $again), without a temporary directory"

# Send SIGTERM, and SIGKILL two seconds later, which would result in exit code 137.
podman stop --time 2 "$container" >/dev/null
code=$(podman inspect --format '{{.State.ExitCode}}' "$container")
[ "$code" = 0 ] || fail "after SIGTERM, the exit code is $code: $(podman logs "$container" 2>&1)"
say "SIGTERM: exit code 0 within 2 s"
say "passed"
