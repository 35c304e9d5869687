"""Architectures as SAELens training classes, a file for each: importing this registers them.

A file is named after its architecture. `TRAINING` holds its training class and that class's config;
`INFERENCE` does the same for the class that is saved, where SAELens does not have it already.
`mdlbench.training.catalogue` lists them without importing torch.
"""

from importlib import import_module

from sae_lens.registry import register_sae_class, register_sae_training_class

from mdlbench.training.catalogue import own_architectures

for _name in own_architectures():
    _module = import_module(f"{__name__}.{_name}")
    register_sae_training_class(_name, *_module.TRAINING)
    if hasattr(_module, "INFERENCE"):
        register_sae_class(_name, *_module.INFERENCE)
