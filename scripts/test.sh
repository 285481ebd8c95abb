# ./run test. Sourced by ./run.

readonly RESULTS=$BUILD/test-results

# Label by label: unit tests side by side, the others one after another, since they want the cores or the disk to
# themselves.
run_label() {
  local label=$1 jobs=$2 filter=$3
  local folder=$RESULTS/$label
  mkdir -p "$folder/gtest"
  local count
  count=$(ctest --test-dir "$BUILD" -N -L "^$label\$" ${filter:+-R "$filter"} | sed -n 's/^Total Tests: //p')
  if [ "${count:-0}" -eq 0 ]; then
    say "      none"
    return 0
  fi
  if [ "$label" = gpu ] && ! { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; then
    say "      no GPU on this machine: $count skipped"
    printf '%s\n' "$count" >"$folder/skipped"
    return 0
  fi
  GTEST_OUTPUT="xml:$PWD/$folder/gtest/" ctest --test-dir "$BUILD" -L "^$label\$" ${filter:+-R "$filter"} -j "$jobs" \
    --output-on-failure --no-tests=error --output-junit "$PWD/$folder/ctest.xml" </dev/null
}

run_tests() {
  local labels=(unit slow fault gpu) filter=""
  while [ $# -gt 0 ]; do
    case $1 in
      --label) labels=("${2:?--label needs unit, slow, fault or gpu}"); shift 2 ;;
      --filter) filter=${2:?--filter needs a regular expression}; shift 2 ;;
      *) die "test knows no option '$1'; see ./run help" ;;
    esac
  done
  local label
  for label in "${labels[@]}"; do
    case $label in unit | slow | fault | gpu) ;; *) die "there is no label '$label': unit, slow, fault or gpu" ;; esac
  done
  plan $((4 + ${#labels[@]}))
  rm -rf "$RESULTS"
  install_packages
  install_test_packages
  build all
  obtain_test_data
  local failed=0
  for label in "${labels[@]}"; do
    step "$label tests"
    run_label "$label" "$([ "$label" = unit ] && nproc || echo 1)" "$filter" || failed=1
  done
  step "result"
  mkdir -p "$RESULTS"
  python3 scripts/summarize_tests.py "$RESULTS" || failed=1
  return $failed
}

# The nightly form of what runs with the fault tests, too.
run_chaos() {
  plan 4
  install_packages
  install_test_packages
  build all
  obtain_test_data
  step "killing processes of a fleet"
  python3 -B tests/chaos/chaos.py "$BUILD" --kills 200 "$@"
}

# Tests of real models find them here; without them they skip and say so.
obtain_test_data() {
  step "looking for WikiText-2, SmolLM2, SeaweedFS and kubectl"
  local kubectl model weed wikitext
  wikitext=$(wikitext2)
  if [ -n "$wikitext" ]; then
    export QAMSERVE_WIKITEXT2=$wikitext
    say "      WikiText-2: $wikitext"
  else
    unset QAMSERVE_WIKITEXT2
    say "      no WikiText-2: tests that need it skip (see QAMSERVE_WIKITEXT2 in ./run help)"
  fi
  if model=$(python3 scripts/fetch_model.py smollm2); then
    export QAMSERVE_SMOLLM2=$model
    say "      SmolLM2: $model"
  else
    unset QAMSERVE_SMOLLM2
    say "      no SmolLM2: tests that need it skip"
  fi
  if weed=$(scripts/fetch_seaweedfs.sh); then
    export QAMSERVE_WEED=$weed
    say "      SeaweedFS: $weed"
  else
    unset QAMSERVE_WEED
    say "      no SeaweedFS: tests that need an S3 server skip, or fail if CI=true"
  fi
  if kubectl=$(scripts/fetch_kubectl.sh); then
    export QAMSERVE_KUBECTL=$kubectl
    say "      kubectl: $kubectl"
  else
    unset QAMSERVE_KUBECTL
    say "      no kubectl of our own: tests that render manifests want that of the system"
  fi
}
