#!/bin/sh
# Unpack Prometheus into FOLDER (usr/bin/prometheus, usr/bin/promtool) for the tests that run it.
# Usage: fetch_prometheus.sh FOLDER
#
# Does nothing if both programs are installed, and does not require root. If the package is not available, it prints the
# reason and succeeds; the tests are then skipped.
set -u

skip() {
  echo "Prometheus is not available, so the tests that need it are skipped: $1"
  exit 0
}

apt() {
  timeout 60 apt-get -qq "$@" >"$log" 2>&1
}

command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
for tool in apt-get dpkg timeout; do
  command -v "$tool" >/dev/null || skip "$tool is missing (macOS: brew install prometheus)"
done

mkdir -p "$1" 2>/dev/null && folder=$(cd "$1" && pwd) && rmdir "$folder" || skip "$1 cannot be written"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
log=$place/log
lists=$place/lists
cache=$place/cache
mkdir -p "$lists/partial" "$cache/archives/partial"
cd "$place" || skip "$place cannot be used"

# First with the system's package lists, then with lists of our own, which need no root.
if ! apt download prometheus; then
  { apt -o "Dir::State::Lists=$lists" -o "Dir::Cache=$cache" -o APT::Update::Error-Mode=any update &&
    apt -o "Dir::State::Lists=$lists" -o "Dir::Cache=$cache" download prometheus; } || {
    reason=$(grep -v '^W:' "$log" | tail -n 1)
    skip "${reason:-apt-get took more than 60 s}"
  }
fi
dpkg -x prometheus_*.deb unpacked >"$log" 2>&1 && mv unpacked "$folder" || skip "$(tail -n 1 "$log")"
