"""Data shipped with the package: a small subset of Fashion-MNIST, see NOTICE."""
