"""Pages to mail: one file each, no network."""
