"""HTML pages about runs: an index, a page per run and study, a comparison, and a server that updates them."""
