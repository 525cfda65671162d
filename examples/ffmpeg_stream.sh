#!/usr/bin/env bash
# Watch anything that ffmpeg can open: an RTSP camera, an ICY or HLS radio, a microphone, a file.
#
#   examples/ffmpeg_stream.sh rtsp://camera.example/stream1
#   examples/ffmpeg_stream.sh http://radio.example:8000/live.mp3 --json
#   SERVER=ws://gpu-box:8000 examples/ffmpeg_stream.sh call.webm --fail-on warn
#
# Arguments after the source are passed to `speech-qc stream`. Ctrl-C ends the stream cleanly and prints the summary.
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
source=$1
shift

# TCP, because UDP loses packets between the camera and this machine, and the losses would count against the source.
input=()
case $source in
  rtsp://* | rtsps://*) input=(-rtsp_transport tcp) ;;
  http://* | https://*) input=(-reconnect 1 -reconnect_streamed 1 -reconnect_delay_max 10) ;;
esac

# -nostdin: ffmpeg must not read the keyboard. No -re: live sources arrive in real time anyway, and a file is scored as
# fast as the server accepts it.
set +e
ffmpeg -nostdin -loglevel error ${input[@]+"${input[@]}"} -i "$source" -vn -ac 1 -ar 16000 -f s16le - |
  speech-qc stream - --url "${SERVER:-ws://127.0.0.1:8000}" --rate 16000 "$@"
codes=("${PIPESTATUS[@]}")

# Exit with the code of speech-qc, but fail if ffmpeg could not open the source. After Ctrl-C, ffmpeg exits with 255.
[ "${codes[1]}" -eq 0 ] && [ "${codes[0]}" -ne 255 ] && exit "${codes[0]}"
exit "${codes[1]}"
