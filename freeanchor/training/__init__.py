"""The training loop, a step of it, its state on disk and its processes."""
