# ./run bench. Sourced by ./run.

bench() {
  case ${1:-} in
    --list | --table | --render | --import) exec python3 tests/bench/bench.py "$@" ;;
  esac
  plan 3
  install_packages
  build all
  step "measuring; the machine should do nothing else meanwhile"
  local wikitext
  wikitext=$(wikitext2)
  [ -n "$wikitext" ] || say "      no WikiText-2: what needs it is not measured (see QAMSERVE_WIKITEXT2 in ./run help)"
  QAMSERVE_WIKITEXT2=$wikitext python3 tests/bench/bench.py --build "$BUILD" "$@"
}
