"""What an archive holds: shares, distributions, what limits would keep, groups, drift and duplicates."""
