"""`saelens:FOLDER`, `saelens:RELEASE/ID` — cfg.json and sae_weights.safetensors as SAELens saves
them, or whatever it fetches by that name; RELEASE/* are all of a release.
"""

from mdlbench.adapters.formats.saelens.adapter import SAELensAdapter

ADAPTER = SAELensAdapter
