#!/bin/sh
# A sound file to text: VOXD_TOKEN=$(voxd token) sh upload.sh speech.wav [http://localhost:8000/v1]
set -eu
curl --fail-with-body --silent --show-error "${2:-http://localhost:8000/v1}/audio/transcriptions" \
    --header "Authorization: Bearer $VOXD_TOKEN" --form "file=@$1" --form response_format=text
