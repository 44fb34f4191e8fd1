"""The head tracker: a parametric head fitted to a plain recording, its identity and the focal length with it."""
