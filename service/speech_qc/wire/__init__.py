"""Everything that crosses HTTP or the WebSocket, declared once.

`vocabulary` holds the closed sets of words, `schemas` the HTTP answers, `client_messages` and `server_messages` the two
directions of a stream, `close` how a stream ends, `encode` turns a document into bytes. Knows pydantic and orjson, and
nothing of sockets, models or audio, so that server, client library and command line can all import it.
"""
