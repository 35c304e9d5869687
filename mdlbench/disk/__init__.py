"""What lies on disk: files written whole, arrays of blocks, .npy headers."""
