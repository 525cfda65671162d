"""uvicorn with our bounds: its server, its two protocols, time-outs of connections, and a watchdog."""
