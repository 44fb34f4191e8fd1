"""Studies of the repository, the figures of those that have run, and the pages that are made of them."""
