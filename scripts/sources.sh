# ./run format and ./run tidy. Sourced by ./run.

# C++ files of the project, tracked or new.
cpp_files() {
  git ls-files -co --exclude-standard -- '*.cc' '*.h' '*.cu' '*.cuh' | while read -r file; do
    if [ -f "$file" ]; then echo "$file"; fi
  done
}

format_sources() {
  command -v clang-format >/dev/null || die "clang-format is missing: ./run setup installs it"
  local files
  mapfile -t files < <(cpp_files)
  case ${1:-} in
    "") clang-format -i "${files[@]}" && say "formatted ${#files[@]} files" ;;
    --check) clang-format --dry-run -Werror "${files[@]}" && say "${#files[@]} files are formatted" ;;
    *) die "format knows only --check" ;;
  esac
}

# Files that changed since this commit are checked: QAMSERVE_TIDY_BASE if given, else the commit that .ci/tidy-base
# names. Move that mark forward when `./run tidy` has nothing to say of what came before.
tidy_base() {
  local base=${QAMSERVE_TIDY_BASE:-$(cat .ci/tidy-base)}
  git rev-parse --verify --quiet "$base^{commit}" || die "the base for clang-tidy, $base, is no commit of this history"
}

# Sources that the build knows (clang-tidy needs their flags), all or changed ones, core first.
tidy_files() {
  local changed=$1 base
  if [ "$changed" = yes ]; then
    base=$(tidy_base) || return
    git diff --name-only --diff-filter=d "$base" -- '*.cc'
  else
    cpp_files | grep '\.cc$'
  fi | sort | while read -r file; do
    grep -qF "\"file\": \"$PWD/$file\"" "$BUILD/compile_commands.json" && echo "$file"
  done || true
}

# Time is bounded (QAMSERVE_TIDY_SECONDS): what was not reached is named, and is not a failure.
tidy_sources() {
  command -v clang-tidy >/dev/null || die "clang-tidy is missing: ./run setup installs it"
  [ -f "$BUILD/compile_commands.json" ] || die "clang-tidy needs the build's flags: run ./run build first"
  local changed=no
  case ${1:-} in
    "") ;;
    --changed) changed=yes ;;
    *) die "tidy knows only --changed" ;;
  esac
  local files
  mapfile -t files < <(tidy_files "$changed")
  say "clang-tidy on ${#files[@]} files"
  [ ${#files[@]} -gt 0 ] || return 0
  python3 scripts/run_tidy.py --build "$BUILD" --jobs "$(jobs)" --seconds "${QAMSERVE_TIDY_SECONDS:-3600}" "${files[@]}"
}
