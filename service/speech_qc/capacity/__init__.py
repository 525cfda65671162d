"""Measures how many live streams a server sustains: paced clients in other processes, and a search for the maximum.

`search` contains the arithmetic, `frames` the part of WebSocket that a client needs, `load` a process of clients,
`host` the server under test, and `trial` one run with a number of streams. The service does not import this package.
"""
