"""`python -m mdlbench`: the command line."""

from mdlbench.cli.main import main

main()
