"""SAEs and families of them against an anchor: whole curves, and who is shortest at a tolerance."""
