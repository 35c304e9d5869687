"""Bilinear layers, and what can be read off their weights (maths §11).

A bilinear layer has no activation function: each of its outputs is a quadratic form of its input,
so its weights alone say what it does. `layer` has the layer, `interaction` its quadratic forms,
`spectrum` their eigenvectors, `hosvd` factors that all outputs share, `features` how the features
of two SAEs interact through it, `masks` inputs that excite one eigenvector and no other, `network`
an image classifier made of such layers.
"""
