"""The seeds' closed forms (maths §9)."""
