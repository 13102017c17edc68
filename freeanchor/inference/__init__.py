"""A trained detector asked: detections, candidates, bags; by torch or ONNX."""
