"""A client for users: live streams, and the API key that it sends."""
