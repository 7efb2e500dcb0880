#!/usr/bin/env bash
# The whole path once: history, features, model, ONNX, service, a live feed over HTTP and gRPC, a summary.
# Called by `make demo`. Sizes can be cut down for a quick look: DEMO_DAYS, DEMO_CUSTOMERS, DEMO_TERMINALS, DEMO_SECONDS.
set -euo pipefail
port=$1 grpc_port=$2
days=${DEMO_DAYS:-183} customers=${DEMO_CUSTOMERS:-5000} terminals=${DEMO_TERMINALS:-10000} seconds=${DEMO_SECONDS:-10}
log=$VIGIL_STATE_DIR/service.log

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
world=(--customers "$customers" --terminals "$terminals")

say "1  Train: $days days of simulated payments -> features -> Keras model, beside its baselines"
vigil train --days "$days" "${world[@]}" --replace-state

say "2  Optimize: Keras -> ONNX, every candidate measured"
vigil optimize

say "3  Serve: bentoml serve on http://127.0.0.1:$port and gRPC on 127.0.0.1:$grpc_port"
mkdir -p "$VIGIL_STATE_DIR"
bentoml serve --host 127.0.0.1 --port "$port" >"$log" 2>&1 &
service=$!
stop() { kill -TERM "$service" 2>/dev/null && wait "$service" 2>/dev/null || true; }
trap stop EXIT
failed() {
  printf '\n%s; the last lines of %s:\n' "$1" "$log" >&2
  tail -n 20 "$log" >&2
  exit 1
}
waited=0
until grep -qs 's; ready' "$log"; do  # its own word: another server may answer at its port
  kill -0 "$service" 2>/dev/null || failed "bentoml serve ended"
  [ $((waited += 1)) -lt 240 ] || failed "bentoml serve is not ready after two minutes"
  printf '.'
  sleep 0.5
done

say "4  Feed: 200 payments a second over HTTP, then over gRPC"
feed=(--rate 200 --seconds "$seconds" --first-day "$days" "${world[@]}" --wait 30)
vigil simulate --to http --port "$port" "${feed[@]}" || failed "the feed over HTTP failed"
vigil simulate --to grpc --port "$grpc_port" "${feed[@]}" --skip $((200 * seconds)) || failed "the feed over gRPC failed"

say "Done. The report of the model: $VIGIL_STATE_DIR/training/payments/report.html"
echo "Next: make run keeps the service up; then try the calls in README.md."
