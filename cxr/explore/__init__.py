"""One image at a time."""
