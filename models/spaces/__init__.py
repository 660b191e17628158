"""Spaces: uint8 images <-> what the network sees. One module per space, found by its name."""
