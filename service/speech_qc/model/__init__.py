"""The model in use: loading it, replacing it while the server runs, and watching its file."""
