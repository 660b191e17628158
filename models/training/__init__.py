"""The training loop, its settings and its objectives."""
