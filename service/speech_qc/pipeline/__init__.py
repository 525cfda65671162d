"""One recording or stream, from samples to the document that describes it.

`session` processes one channel, `inspector` a whole recording, `explain` finds the evidence for events, `documents`
builds the response, `factory` builds the engine from the settings. Depends on neither HTTP nor sockets.
"""
