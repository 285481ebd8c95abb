# Shared by ./run and its parts: words on the screen, packages, the build. Sourced from the repository root.

readonly BUILD=build
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/qamserve

# Debian 12's default Boost is older than what its HTTP library wants; later systems have a newer one.
boost_package() {
  if grep -qx 'VERSION_CODENAME=bookworm' /etc/os-release 2>/dev/null; then echo libboost1.81-dev; else echo libboost-dev; fi
}

# What Debian 12 and Ubuntu call the things we use. mold and ccache only save time.
readonly PACKAGES=(
  build-essential cmake ninja-build ccache pkg-config git ca-certificates
  libgrpc++-dev protobuf-compiler-grpc protobuf-compiler libprotobuf-dev libabsl-dev
  prometheus-cpp-dev "$(boost_package)" libcurl4-openssl-dev zlib1g-dev
  libpugixml-dev libsqlite3-dev libpq-dev libssl-dev openssl libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libpcre2-dev libutf8proc-dev
  libeigen3-dev libgtest-dev libgmock-dev clang-format clang-tidy mold python3 python3-venv python3-pip
)

# What tests use where the system has it: without it they skip, and say what is missing. Where CI=true those of stores,
# Prometheus and clocks fail instead.
readonly TEST_PACKAGES=(curl prometheus postgresql pgbouncer libfaketime python3-jinja2 chromium chromium-driver fonts-dejavu-core)

STEP=0
STEPS=0
plan() { STEPS=$1; STEP=0; }
step() { STEP=$((STEP + 1)); printf '[%d/%d] %s\n' "$STEP" "$STEPS" "$*"; }
say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# missing_packages NAME...: those that are not installed, one a line.
missing_packages() {
  local installed
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    awk '$2 == "installed" { print $1 }' || true)
  local package
  for package in "$@"; do
    grep -qxF -- "$package" <<<"$installed" || printf '%s\n' "$package"
  done
}

install_packages() {
  step "looking for packages"
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this needs Debian 12 or Ubuntu 24.04 (or newer) for its packages. Elsewhere install the equivalents of:
  ${PACKAGES[*]}
then build with: cmake -S . -B $BUILD -G Ninja && cmake --build $BUILD"
  fi
  local missing
  mapfile -t missing < <(missing_packages "${PACKAGES[@]}")
  if [ ${#missing[@]} -eq 0 ]; then
    say "      all ${#PACKAGES[@]} are installed"
    return
  fi
  say "      missing: ${missing[*]}"
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    # Without a terminal sudo could only fail to ask for the password.
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      root=(sudo)
    else
      die "packages are missing and this user may not install them. Run as root, then try again:
  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    fi
  fi
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q)
  "${apt[@]}" update ||
    die "the package lists could not be fetched: is there a network, and are the lines in /etc/apt/sources.list right?"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
    die "apt-get could not install everything (see above). On Ubuntu the 'universe' component must be on:
  apt-get install -y software-properties-common && add-apt-repository -y universe"
}

# Those of TEST_PACKAGES that the system has and this user may install; nothing here is a reason to stop.
install_test_packages() {
  local missing package root=() wanted=()
  missing=$(missing_packages "${TEST_PACKAGES[@]}")
  # A fresh machine has no lists of packages yet, and there tests fail for what is missing.
  if [ -n "$missing" ] && [ "${CI:-}" = true ] && [ "$(id -u)" -eq 0 ]; then
    apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null || say "      the package lists could not be fetched"
  fi
  for package in $missing; do
    if apt-cache show "$package" >/dev/null 2>&1; then wanted+=("$package"); fi
  done
  [ ${#wanted[@]} -gt 0 ] || return 0
  say "      for tests: ${wanted[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
      say "      this user may not install them; the tests that want them skip"
      return 0
    fi
    root=(sudo)
  fi
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q install -y \
    --no-install-recommends "${wanted[@]}" >/dev/null || say "      they could not be installed; the tests that want them skip"
}

# Under sudo, packages are root's business and the rest is the user's: else build/ and the cache would belong to root
# and the next plain ./run would fail. Does nothing when root calls directly or owns the folder.
continue_as_owner() {
  [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] || return 0
  [ "$(stat -c %U .)" = "$SUDO_USER" ] || return 0
  plan 1
  install_packages
  say "the rest runs as $SUDO_USER"
  local keep=()
  local name
  for name in QAMSERVE_WIKITEXT2 QAMSERVE_JOBS XDG_CACHE_HOME CI; do
    [ -n "${!name:-}" ] && keep+=("$name=${!name}")
  done
  exec sudo -H -u "$SUDO_USER" env "${keep[@]}" ./run "$@"
}

# Compilers at once: one a core, and 1.5 GiB each, which a file that includes gRPC takes.
jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) / 1572864))
  [ "$memory" -lt 1 ] && memory=1
  printf '%s\n' "${QAMSERVE_JOBS:-$((cores < memory ? cores : memory))}"
}

# build TARGET...
build() {
  step "building $* into $BUILD/ with $(jobs) jobs"
  local major
  major=$(g++ -dumpversion | cut -d. -f1)
  [ "$major" -ge 12 ] || die "g++ $major is too old: 12 is the first that builds this (Debian 12, Ubuntu 24.04)"
  if [ -f "$BUILD/CMakeCache.txt" ] &&
    ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$BUILD/CMakeCache.txt"; then
    die "$BUILD/ was configured for another folder. Remove it with ./run clean and try again"
  fi
  mkdir -p "$BUILD"
  # Configuring is chatty when it goes well and worth reading only when it does not.
  if ! cmake -S . -B "$BUILD" -G Ninja >"$BUILD/configure.log" 2>&1; then
    tail -n 40 "$BUILD/configure.log" >&2
    die "configuring failed (see above; all of it is in $BUILD/configure.log)"
  fi
  cmake --build "$BUILD" -j "$(jobs)" --target "$@" || die "the build failed (see above)"
}

# wikitext2: prints the folder that holds WikiText-2, or nothing. What is said goes to stderr.
wikitext2() {
  local folder=${QAMSERVE_WIKITEXT2:-$CACHE/wikitext-2}
  if python3 scripts/fetch_wikitext2.py ${QAMSERVE_WIKITEXT2:+--check-only} "$folder" >&2; then
    printf '%s\n' "$folder"
  fi
}
