"""FreeAnchor's loss in other people's detectors, one module a library; import the one you need."""
