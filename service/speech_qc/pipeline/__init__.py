"""One recording or stream, from samples to the document that describes it.

`session` follows one channel, `inspector` a whole recording, `explain` finds the evidence for events, `documents` makes
the answer, `factory` builds the engine from the settings. Knows no HTTP and no sockets.
"""
