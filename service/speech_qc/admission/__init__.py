"""Every limit on who may use how much: quotas of API keys, memory, places for uploads and for live streams."""
