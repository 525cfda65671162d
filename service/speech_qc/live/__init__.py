"""One live stream: audio in messages of any size in, scores and events out while it lasts, a summary at its end.

`options` reads what the client asks for, `stream` runs the stream from start to close, `scorer` carries chunks between
session and engine, `input_checks` finds problems with the audio that the sender should know of, `outbox` bounds what
waits for the client. Knows neither FastAPI nor uvicorn; `speech_qc.api.stream` is the socket.
"""
