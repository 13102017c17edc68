"""Model files: ours, and those of other code bases."""
