"""Pages over runs, for a browser: an index, a page per run, a comparison, and a server that keeps them fresh."""
