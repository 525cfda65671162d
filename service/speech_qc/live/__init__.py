"""One live stream: audio of any cut in, scores and events out while it lasts, a summary at its end.

`options` reads what the client asks for, `commands` are its text messages, `wire` turns bytes into samples, `scorer`
carries chunks between session and engine, `watch` finds what is worth a warning, `outbox` bounds what waits for the
client, `stream` ties them together, `hub` knows all streams. Nothing here knows FastAPI; `speech_qc.api.stream` is the
socket.
"""
