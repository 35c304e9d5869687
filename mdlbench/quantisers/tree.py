"""Plain rounding with the tree code: the mode `tree` (maths §2, §3)."""

from __future__ import annotations

from mdlbench.codes.rates import TreeCode
from mdlbench.quantisers.plain import plain_step, told
from mdlbench.quantisers.protocol import Machinery

MACHINERY = Machinery(plain_step, told, TreeCode)
