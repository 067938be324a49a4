#!/bin/sh
# Fails a pipeline when voxd has become slow: two people speak a clip, and 95 of 100 final texts must be there in time.
# VOXD_TOKEN=$(voxd token) sh bench_in_ci.sh [TARGET] [LIMIT_MS]; the figures stay in bench.json.
set -eu
voxtui bench "${1:-localhost:8000}" --sessions 2 --turns "${TURNS:-5}" --assert "final_ms.p95<${2:-2000}" --json bench.json
