"""Studies: a grid of architectures, widths, sparsities and training seeds, trained and compared."""
