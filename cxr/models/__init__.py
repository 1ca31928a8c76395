"""Which network: architectures, graphs, weights."""
