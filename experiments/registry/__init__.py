"""Every run of every profile, as a value."""
