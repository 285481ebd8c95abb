# A fleet of containers on this machine: ./run up, ./run down. Sourced by ./run.

# The first of these that there is. Docker's own needs its plugin, which a bare docker lacks.
compose_program() {
  if [ -n "${QAMSERVE_COMPOSE:-}" ]; then
    printf '%s\n' "$QAMSERVE_COMPOSE"
  elif docker compose version >/dev/null 2>&1; then
    echo docker compose
  elif command -v docker-compose >/dev/null; then
    echo docker-compose
  elif command -v podman-compose >/dev/null; then
    echo podman-compose
  else
    die "there is no compose: install Docker with its compose plugin, or podman-compose, or name another program in QAMSERVE_COMPOSE"
  fi
}

# setting NAME DEFAULT: what .env says.
setting() {
  local value
  value=$(sed -n "s/^$1=//p" .env | tail -n 1)
  printf '%s\n' "${value:-$2}"
}

# compose_up [OPTION OF compose up]...: with secrets that are made here if they are not there yet.
compose_up() {
  local program
  program=$(compose_program)
  read -ra program <<<"$program"
  plan 2
  step "secrets"
  deploy/docker/make_env.sh
  step "${program[*]} up"
  "${program[@]}" up --build -d "$@" || die "compose failed (see above)"
  say "API and console: http://localhost:$(setting HTTP_PORT 8080), gRPC: localhost:$(setting GRPC_PORT 50051), Grafana: http://localhost:$(setting GRAFANA_PORT 3000) (user admin)"
  say "the key: export QAMCTL_API_KEY=\"\$(sed -n 's/^QAMSERVE_ADMIN_KEY=//p' .env)\"; Grafana's password is GRAFANA_ADMIN_PASSWORD in .env"
}

# compose_down [OPTION OF compose down]...
compose_down() {
  local program
  program=$(compose_program)
  read -ra program <<<"$program"
  [ -f .env ] || die "there is no .env, so nothing was started from here"
  "${program[@]}" down "$@"
}
