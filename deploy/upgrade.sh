#!/bin/sh
# Replaces the replicas by those of another version, one after the other. The image must be here (make image, docker pull).
#
#   COMPOSE_FILE=docker-compose.yml:docker-compose.scale.yml deploy/upgrade.sh 0.2.0
#
# A new replica is healthy before an old one is told to drain, so none is missing at any time. One that does not become
# healthy is taken away, the old ones serve on, and the exit code is 1.
set -eu

tag=${1:?usage: deploy/upgrade.sh TAG}
wait_s=${2:-180}
old=$(docker compose ps --quiet speech-qc)
count=$(echo "$old" | grep -c .) || {
    echo "no replica runs: start them with SPEECH_QC_TAG=$tag docker compose up --wait --no-build" >&2
    exit 2
}
export SPEECH_QC_TAG="$tag"

for one in $old; do
    before=$(docker compose ps --all --quiet speech-qc)
    if ! docker compose up --wait --wait-timeout "$wait_s" --no-build --no-deps --no-recreate \
        --scale "speech-qc=$((count + 1))" speech-qc; then
        for new in $(docker compose ps --all --quiet speech-qc); do
            if ! echo "$before" | grep -q "$new"; then
                docker logs --tail 5 "$new" >&2 || true
                docker rm --force "$new" >/dev/null
            fi
        done
        echo "speech-qc:$tag did not become healthy and was taken away; the replicas before it serve on" >&2
        exit 1
    fi
    docker stop "$one" >/dev/null # drains; what it has is finished, nginx sends new work to the others
    docker rm "$one" >/dev/null
done
echo "$count replicas run speech-qc:$tag; put SPEECH_QC_TAG=$tag into .env, or the next \`docker compose up\` goes back"
