#!/usr/bin/env bash
# A session with a running service (`make run`), by curl alone: score, label, read the record, infer.
#   examples/curl.sh [http://127.0.0.1:3000]
set -euo pipefail
at=${1:-http://127.0.0.1:3000}
id=curl-$RANDOM-$RANDOM
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
call() { # METHOD PATH [JSON]: the answer; ends where it is an error
  echo "> $1 $2" >&2
  curl --silent --show-error --fail-with-body --max-time 10 --request "$1" "$at$2" \
    ${3:+--header 'content-type: application/json' --data "$3"}
  echo
}
payment() { # ID AMOUNT
  printf '{"event_id":"%s","ts":"%s","customer":"C42","terminal":"T7","amount":%s}' "$1" "$now" "$2"
}

call POST /v1/payments/score "$(payment "$id" 31.5)"
call POST /v1/payments/score "[$(payment "$id-2" 12),$(payment "$id-3" 990)]"
call POST /v1/payments/feedback "{\"event_id\":\"$id\",\"label\":1}"
call GET "/v1/decisions/$id"
call GET /v2/models/payments
row=$(printf '0,%.0s' {1..38})
call POST /v2/models/payments/infer \
  "{\"inputs\":[{\"name\":\"features\",\"datatype\":\"FP32\",\"shape\":[1,38],\"data\":[${row%,}]}]}"
