"""A client library for users: live streams and API keys."""
