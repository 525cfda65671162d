"""The command line `speech-qc`: one module per command, and shared modules.

`main` declares the options; no other module here depends on the option parser.
"""
