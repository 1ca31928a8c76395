"""Two models of the user's own."""
