"""Drawing of pictures, plots and animations, and writing of their files."""
