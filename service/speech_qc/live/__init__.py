"""One live stream: audio in messages of any size; scores and events while it lasts; a summary at its end.

`options` parses what the client requests, `stream` runs the stream from start to close, `intake` takes its audio,
`scorer` moves chunks between session and engine, `score_messages` writes what the client is told of its scores,
`input_checks` detects audio problems that the sender should fix, `outbox` bounds the messages that wait for the client.
Uses neither FastAPI nor uvicorn; `speech_qc.api.stream` provides the socket.
"""
