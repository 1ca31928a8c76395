"""How far evidence moved, how well a network classifies. NumPy only."""
