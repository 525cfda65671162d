"""Normal ranges of groups of recordings, such as trunks, devices or speakers, and which groups have left theirs."""
