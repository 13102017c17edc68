"""Metrics of detections and candidates, with intervals."""
