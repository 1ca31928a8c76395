"""Which images: where they lie, what they are, how they are split and loaded."""
