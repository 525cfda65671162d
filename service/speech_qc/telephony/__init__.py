"""Phone systems on a socket: one small module per vendor turns its messages into audio, keys and gaps of legs."""
