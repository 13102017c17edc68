"""One run: its stages, what each leaves, and where that lies."""
