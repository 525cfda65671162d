"""Who may use the server: API keys and tokens, the access policy, and the check of the address that is bound."""
