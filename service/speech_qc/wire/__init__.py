"""Everything that is sent over HTTP or WebSocket, declared once.

`vocabulary` defines the closed sets of values, `schemas` the HTTP responses, `client_messages` and `server_messages`
the two directions of a stream, `close` how a stream ends; `encode` converts a document to JSON. Uses only pydantic and
orjson and is independent of sockets, models and audio, so that server, client library and command line can import it.
"""
