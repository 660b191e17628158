"""Files of a run: its folder, status, metrics and checkpoints."""
