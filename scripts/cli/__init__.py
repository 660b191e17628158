"""The command line: flags, arguments, recipes, exit codes and the terminal."""
