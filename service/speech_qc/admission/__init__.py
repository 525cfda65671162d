"""Every limit on resource usage: quotas of API keys, memory, places for uploads and for live streams."""
