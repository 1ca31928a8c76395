"""How a grid of notebooks is run."""
