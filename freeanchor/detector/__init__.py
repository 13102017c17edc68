"""The network: backbone, pyramid, heads, and NMS after them."""
