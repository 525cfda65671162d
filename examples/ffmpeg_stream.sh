#!/usr/bin/env bash
# Watch anything that ffmpeg can open: an RTSP camera, an ICY or HLS radio, a microphone, a file.
#
#   examples/ffmpeg_stream.sh rtsp://camera.example/stream1
#   examples/ffmpeg_stream.sh http://radio.example:8000/live.mp3 --json
#   SERVER=ws://gpu-box:8000 examples/ffmpeg_stream.sh call.webm --fail-on warn
#
# What follows the source goes to `speech-qc stream`. Ctrl-C ends the stream in order: the summary still comes.
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
source=$1
shift

# Over UDP, cameras lose packets on the way, and the losses would be judged as the line's.
input=()
case $source in
  rtsp://* | rtsps://*) input=(-rtsp_transport tcp) ;;
  http://* | https://*) input=(-reconnect 1 -reconnect_streamed 1 -reconnect_delay_max 10) ;;
esac

# -nostdin: the terminal's keys are not for ffmpeg. -re is left out: live sources set the pace themselves, and a file
# is scored as fast as the server takes it.
set +e
ffmpeg -nostdin -loglevel error ${input[@]+"${input[@]}"} -i "$source" -vn -ac 1 -ar 16000 -f s16le - |
  speech-qc stream - --url "${SERVER:-ws://127.0.0.1:8000}" --rate 16000 "$@"
codes=("${PIPESTATUS[@]}")

# The verdict counts; but a source that could not be opened must not pass. ffmpeg ends with 255 after Ctrl-C.
[ "${codes[1]}" -eq 0 ] && [ "${codes[0]}" -ne 255 ] && exit "${codes[0]}"
exit "${codes[1]}"
