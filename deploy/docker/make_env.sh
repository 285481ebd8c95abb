#!/usr/bin/env bash
# usage: make_env.sh [FILE]     default: .env at the root of the repository
# Writes the settings of docker-compose.yml with secrets made here, readable by this user alone. A file that is there
# keeps what it has; only secrets that are missing or empty in it are made.
set -euo pipefail
umask 077
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
file=${1:-$here/../../.env}
example=$here/example.env

# 192 bits.
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

[ -e "$file" ] || cp "$example" "$file"
chmod 600 "$file"
made=()
for name in $(sed -n 's/^\([A-Z0-9_]*\)=$/\1/p' "$example"); do
  if grep -q "^$name=." "$file"; then continue; fi
  value=$(secret)
  # Access keys are names rather than secrets, and shorter.
  [ "$name" != S3_ACCESS_KEY ] || value=${value:0:20}
  if grep -q "^$name=" "$file"; then
    sed -i "s/^$name=\$/$name=$value/" "$file"
  else
    printf '%s=%s\n' "$name" "$value" >>"$file"
  fi
  made+=("$name")
done
echo "$file: made ${made[*]:-nothing, all secrets are there}"
