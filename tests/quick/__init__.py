"""Commands as processes that start quickly: forks of a server that has imported what takes long.

What runs is `python -m mdlbench`: with its own arguments, folder, variables, files, exit code and
end; only the imports are done already. Where starting, being killed or what is imported is tested,
start Python itself.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ADDRESS = "MDLBENCH_TEST_SERVER"
"""The variable that tells the client where its server listens."""
MDLBENCH = [sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py"))]
"""What to put before a command's arguments, in an environment of `served`."""
PLAIN = ("matplotlib.pyplot", "pandas", "scipy.stats", "sklearn.cluster", "torch")
PLAIN += ("mdlbench.cli.app", "mdlbench.cli.progress", "mdlbench.scoring.suite_run")
LANGUAGE = (*PLAIN, "sae_lens", "transformer_lens", "datasets")


def served(environment: Mapping[str, str]) -> dict[str, str]:
    """That environment, with the address of a server for it.

    Libraries of the hub read its variables when they are imported, so a server that imports them
    belongs to one set of these.
    """
    hub = tuple(sorted((k, v) for k, v in environment.items() if k.startswith("HF_")))
    return {**environment, ADDRESS: _address(hub if "HF_HOME" in environment else ())}


@cache
def _address(hub: tuple[tuple[str, str], ...]) -> str:
    folder = tempfile.TemporaryDirectory(prefix="mdlbench-tests-")
    address = str(Path(folder.name) / "server")
    script, modules = Path(__file__).with_name("server.py"), LANGUAGE if hub else PLAIN
    server = subprocess.Popen(
        [sys.executable, str(script), address, *modules],
        env=os.environ | dict(hub) | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
    )
    assert server.stdin is not None
    pipe = server.stdin

    def end() -> None:
        pipe.close()
        server.wait()
        folder.cleanup()

    atexit.register(end)
    return address
