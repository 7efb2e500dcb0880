#!/usr/bin/env bash
# The whole path once: history, features, model, ONNX, service, a live feed over HTTP and gRPC, a summary.
# Called by `make demo`. Sizes can be cut down for a quick look: DEMO_DAYS, DEMO_CUSTOMERS, DEMO_TERMINALS, DEMO_SECONDS.
set -euo pipefail
port=$1 grpc_port=$2
days=${DEMO_DAYS:-183} customers=${DEMO_CUSTOMERS:-5000} terminals=${DEMO_TERMINALS:-10000} seconds=${DEMO_SECONDS:-10}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
world=(--customers "$customers" --terminals "$terminals")

say "1  Train: $days days of simulated payments -> features -> Keras model, beside its baselines"
vigil train --days "$days" "${world[@]}" --replace-state

say "2  Optimize: Keras -> ONNX, every candidate measured"
vigil optimize

say "3  Serve: bentoml serve on http://127.0.0.1:$port and gRPC on 127.0.0.1:$grpc_port"
mkdir -p "$VIGIL_STATE_DIR"
bentoml serve --host 127.0.0.1 --port "$port" >"$VIGIL_STATE_DIR/service.log" 2>&1 &
service=$!
stop() { kill -TERM "$service" 2>/dev/null && wait "$service" 2>/dev/null || true; }
trap stop EXIT
until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 "$service" 2>/dev/null || { cat "$VIGIL_STATE_DIR/service.log"; exit 1; }
  printf '.'
  sleep 0.5
done

say "4  Feed: 200 payments a second over HTTP, then over gRPC"
feed=(--rate 200 --seconds "$seconds" --first-day "$days" "${world[@]}" --wait 30)
vigil simulate --to http --port "$port" "${feed[@]}"
vigil simulate --to grpc --port "$grpc_port" "${feed[@]}" --skip $((200 * seconds))

say "Done. The report of the model: $VIGIL_STATE_DIR/training/payments/report.html"
echo "Next: make run keeps the service up; then try the calls in README.md."
