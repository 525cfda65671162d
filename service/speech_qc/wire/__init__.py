"""Everything that is sent over HTTP or WebSocket, declared once.

`vocabulary` defines the closed sets of values, `schemas` the HTTP responses, `client_messages` and `server_messages`
the two directions of a stream, `close` how a stream ends; `encode` converts a document to JSON. Knows pydantic and
orjson, and nothing of sockets, models or audio, so that server, client library and command line can all import it.
"""
