"""One module per task: flags -> build -> loop. Run as `python -m scripts.<task>`."""
