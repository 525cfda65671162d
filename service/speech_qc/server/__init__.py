"""uvicorn with our limits: its server, its HTTP and WebSocket protocols, connection time-outs and a watchdog."""
