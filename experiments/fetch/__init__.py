"""Fetching published files: COCO, backbones, checkpoints."""
