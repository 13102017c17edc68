"""COCO files as columns of numpy arrays."""
