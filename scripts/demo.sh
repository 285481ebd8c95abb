# ./run demo: from nothing to a chat with a quantized model. Sourced by ./run.

readonly DEMO=$CACHE/demo
SERVER_PID=""
HTTP_URL=""

# Ends the server that this script started, and no other.
stop_server() {
  [ -n "$SERVER_PID" ] || return 0
  kill -TERM "$SERVER_PID" 2>/dev/null || true
  wait "$SERVER_PID" 2>/dev/null || true
  SERVER_PID=""
}

# On the way out, whatever the reason.
leave_demo() {
  local status=$?
  stop_server
  if [ "$status" -ne 0 ]; then
    say "the demo did not come to its end (see above); the server is stopped, its log is $DEMO/server.log" >&2
  fi
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_server PORT METRICS_PORT; sets QAMSERVE_ADDRESS and HTTP_URL to where it listens. Port 0 lets it choose.
start_server() {
  local log=$DEMO/server.log
  mkdir -p "$DEMO"
  # Now, not when the server's process gets to it: what an earlier server wrote must not be read.
  : >"$log"
  "$BUILD/server/qamserve" --data-dir "$DEMO/data" --listen "127.0.0.1:$1" --http-listen 127.0.0.1:0 \
    --metrics-listen "127.0.0.1:$2" >"$log" 2>&1 </dev/null &
  SERVER_PID=$!
  local i address
  for ((i = 0; i < 300; i++)); do
    address=$(sed -n 's/^listening on //p' "$log")
    HTTP_URL=$(sed -n 's/^http on //p' "$log")
    if [ -n "$address" ] && [ -n "$HTTP_URL" ]; then
      export QAMSERVE_ADDRESS=$address
      return 0
    fi
    if ! kill -0 "$SERVER_PID" 2>/dev/null; then
      tail -n 20 "$log" >&2
      SERVER_PID=""
      die "the server ended at once (see above; its log is $log). If another demo is running, end it first"
    fi
    sleep 0.1
  done
  die "the server did not answer within 30 seconds; its log is $log"
}

# Shows the command as a user would type it, then runs it.
show_and_run() {
  printf '\n$ qamctl'
  local word
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_.:/=+-]*) printf ' "%s"' "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
  "$BUILD/client/qamctl" "$@"
}

# One question as an application that knows OpenAI's API asks it; Python stands in for curl, which may be missing.
ask_over_http() {
  local body='{"model": "'$1'", "temperature": 0, "max_tokens": 64, "messages": [{"role": "user",
  "content": "What is the capital of Italy? Answer in one sentence."}]}'
  printf "\n$ curl %s/v1/chat/completions -H 'Content-Type: application/json' -d '%s'\n" "$HTTP_URL" "$body"
  python3 - "$HTTP_URL/v1/chat/completions" "$body" <<'PY'
import json
import sys
import urllib.request

request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as answer:
    print(json.load(answer)["choices"][0]["message"]["content"])
PY
}

demo() {
  local keep=no port=""
  while [ $# -gt 0 ]; do
    case $1 in
      --keep) keep=yes; shift ;;
      --port) port=${2:?--port needs a number}; shift 2 ;;
      *) die "demo knows no option '$1'; see ./run help" ;;
    esac
  done
  plan 10
  install_packages
  build qamserve qamctl

  step "obtaining SmolLM2-135M-Instruct (98 MB, once)"
  local model
  model=$(python3 scripts/fetch_model.py smollm2) || exit 1
  say "      $model"

  step "looking for WikiText-2 to calibrate and measure on"
  local wikitext texts=()
  wikitext=$(wikitext2)
  if [ -n "$wikitext" ]; then
    mkdir -p "$DEMO"
    # The token version of the text has <unk> in place of rare words; those are no text.
    sed 's/ <unk>//g' "$wikitext/valid.tokens" >"$DEMO/calibration.txt"
    texts=(--calibration "$DEMO/calibration.txt" --evaluation "$wikitext/wiki.test.raw")
    say "      $wikitext"
  else
    say "      not found: the model's own samples take its place, for calibration and for the report. The figures
      are then not comparable with those of docs/benchmarks.md. (Set QAMSERVE_WIKITEXT2 to a folder with
      wiki.test.raw and valid.tokens to use the text.)"
  fi

  step "starting the server"
  trap leave_demo EXIT
  local metrics_port
  metrics_port=$(free_port)
  start_server "${port:-0}" "$metrics_port"
  say "      gRPC on $QAMSERVE_ADDRESS, console, REST and OpenAI's API on $HTTP_URL"
  say "      metrics on http://127.0.0.1:$metrics_port/metrics"
  say "      log in $DEMO/server.log"

  step "uploading"
  show_and_run upload "$model" --name smollm2
  step "quantizing at 5.5 bits a weight"
  show_and_run quantize smollm2 --bpw 5.5 --name smollm2-5.5 "${texts[@]}" --watch
  step "the report"
  # Newest first: a demo of an earlier version may have left one of the same name.
  local artifact
  artifact=$("$BUILD/client/qamctl" artifacts --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["artifacts"][0]["name"][:22])')
  show_and_run report "$artifact"
  step "loading the artifact and chatting with it"
  # What an earlier demo served under this name came back with the server.
  "$BUILD/client/qamctl" unload smol >/dev/null 2>&1 || true
  show_and_run load "$artifact" --name smol
  show_and_run chat smol --message "What is the capital of France? Answer in one sentence." \
    --temperature 0 --max-tokens 64
  step "the same model by OpenAI's API"
  ask_over_http smol

  say ""
  say "Done."
  if [ "$keep" = yes ]; then
    trap - EXIT
    disown "$SERVER_PID"
    say "The server runs on as process $SERVER_PID (stop it with: kill $SERVER_PID). Try next:
  export QAMSERVE_ADDRESS=$QAMSERVE_ADDRESS
  $BUILD/client/qamctl chat smol
  $BUILD/client/qamctl quantize smollm2 --bpw 4 --watch
  $BUILD/client/qamctl artifacts
  a browser at $HTTP_URL/ for the console, at $HTTP_URL/docs for the API"
  else
    stop_server
    say "The server is stopped. Try next:
  ./run demo --keep          the same again, at once this time, and the server stays
  ./run test                 all tests
  $BUILD/client/qamctl --help"
  fi
}
