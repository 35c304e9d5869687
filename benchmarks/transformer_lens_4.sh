#!/bin/sh
# What mdlbench does with TransformerLens 4 in the place of 3.9, which sae-lens still asks for.
#
#     benchmarks/transformer_lens_4.sh .venv/bin/python | tee benchmarks/results/transformer_lens_4.txt
#
# Puts TransformerLens 4 alone, without what it depends on, into a folder that is searched before the
# environment of that Python, as `pip install --no-deps` would put it into the environment itself;
# so sae-lens stays as it is, and its own pin does not count. Then runs the tests of whatever reads a
# model: hook points of every family, processed weights against the Bridge of version 4, sites,
# several hook points at once, published formats but for a comparison with SAELens' own loader.
set -eu
python=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip install --quiet --no-deps --no-compile --target "$folder" "transformer-lens>=4,<5"
cd "$(dirname "$0")/.."
export PYTHONPATH="$folder:${PYTHONPATH:-.}" PYTHONDONTWRITEBYTECODE=1
"$python" - <<'END'
from importlib import metadata

print("transformer-lens", metadata.version("transformer-lens"))
print("sae-lens", metadata.version("sae-lens"), end=": ")
try:
    import sae_lens
except ImportError as error:
    print(f"cannot be imported ({error}),\n    so nothing that trains SAEs is tried")
else:
    print("can be imported")
END
"$python" -m pytest -p no:cacheprovider -W ignore -rs \
    tests/test_language.py tests/test_processing.py tests/test_sites.py tests/test_together.py \
    tests/test_other_libraries.py \
    --deselect tests/test_other_libraries.py::test_llama_scope_is_what_saelens_makes_of_it
