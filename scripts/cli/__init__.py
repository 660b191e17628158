"""The command line: flags, settings, recipes, exit codes and the terminal. Nothing here imports torch."""
