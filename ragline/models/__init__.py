"""Models by name: embedders, the sparse encoder, and the extractive generator (design: models)."""
