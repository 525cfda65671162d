#!/bin/sh
# Replace the replicas with another version, one at a time. The image must exist locally (make image, docker pull).
#
#   COMPOSE_FILE=docker-compose.yml:docker-compose.scale.yml deploy/upgrade.sh 0.2.0 [seconds to become healthy]
#
# An old replica is stopped only after a new one is healthy, so capacity never drops. If a new replica does not become
# healthy, it is removed, the old ones keep serving, and the exit code is 1.
set -eu

tag=${1:?usage: deploy/upgrade.sh TAG [SECONDS]}
wait_s=${2:-180}
export SPEECH_QC_TAG="$tag"

replicas() {
    docker compose ps --quiet "$@" speech-qc
}

healthy() {
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$1" 2>/dev/null)" = healthy ]
}

old=$(replicas)
count=$(echo "$old" | grep -c .) || {
    echo "no replica is running: start the replicas with SPEECH_QC_TAG=$tag docker compose up --wait --no-build" >&2
    exit 2
}
# Compose would restart a replica that has exited instead of creating a new one, so remove those.
for one in $(replicas --all); do
    echo "$old" | grep -q "$one" || docker rm "$one" >/dev/null
done

for one in $old; do
    before=$(replicas --all)
    new=
    if docker compose up --detach --no-build --no-deps --no-recreate --scale "speech-qc=$((count + 1))" speech-qc; then
        for any in $(replicas --all); do
            echo "$before" | grep -q "$any" || new=$any
        done
    fi
    left_s=$wait_s
    until [ -n "$new" ] && healthy "$new"; do
        if [ -z "$new" ] || [ "$left_s" -le 0 ]; then
            for any in $(replicas --all); do
                echo "$before" | grep -q "$any" && continue
                docker logs --tail 5 "$any" >&2 || true
                docker rm --force "$any" >/dev/null
            done
            echo "speech-qc:$tag did not become healthy within $wait_s s and was removed; the old replicas keep serving" >&2
            exit 1
        fi
        sleep 1
        left_s=$((left_s - 1))
    done
    docker stop "$one" >/dev/null # the replica drains: it finishes its work, and nginx sends new work to the others
    docker rm "$one" >/dev/null
done
echo "$count replicas run speech-qc:$tag; put SPEECH_QC_TAG=$tag into .env, or the next \`docker compose up\` reverts it"
