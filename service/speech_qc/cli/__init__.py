"""The commands of `speech-qc`, one module per step: find recordings, get answers, write them.

`service.cli` declares the options; nothing here knows the option parser.
"""
