"""How many live streams a server carries: paced clients in other processes, a search for the most that still hold.

`search` is the arithmetic, `frames` the few bytes of WebSocket that a client needs, `load` a process full of clients,
`host` the server that is measured, `trial` one run of so many streams. Nothing here is imported by the service.
"""
