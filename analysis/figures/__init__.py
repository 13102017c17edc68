"""Every figure: a frame in, a matplotlib figure out."""
