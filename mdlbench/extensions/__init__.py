"""Code from elsewhere: plug-ins found by kind, and what they may do when they run."""
