"""The command line `speech-qc`: one module per command, and what they share.

`main` declares the options; nothing else here knows the option parser.
"""
