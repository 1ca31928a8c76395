"""How sure: bootstrap and tests, on numbers alone."""
