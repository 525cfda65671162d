"""speech-qc inside another program: `inspect` for recordings, `Stream` for live audio.

No server, no event loop, no threads of its own: the model runs in the calling thread. It is loaded at first use, once
per process, with the settings of the `SPEECHQC_*` environment, and may be used from several threads at the same time.
"""
