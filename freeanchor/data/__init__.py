"""Data sets in COCO format: read, checked, resized, augmented, converted."""
