"""RTP streams in packet captures: found, put in order, measured and decoded, each as a leg with gaps.

`capture` reads the file, `network` unwraps datagrams, `sdp` learns payload types from SIP, `finder` recognises streams,
`ordering` and `timeline` give every packet its place, and `reader` joins them and decodes. Works in one pass and
constant memory; independent of HTTP, models and scores.
"""
