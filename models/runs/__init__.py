"""What lies on disk: run folders, their status, metrics and checkpoints."""
