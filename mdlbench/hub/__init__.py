"""The hub: files fetched from it, and the list of what a suite needs."""
