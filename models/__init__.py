"""The library: schedules, predictions, networks, losses, samplers and the training loop. Knows no flags."""
