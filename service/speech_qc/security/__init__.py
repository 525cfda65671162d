"""Access control: API keys and tokens, the access policy, and the check of the bind address."""
