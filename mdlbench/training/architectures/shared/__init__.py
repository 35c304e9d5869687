"""What several architectures have in common; none of these files is an architecture."""
