"""Imports modules, then is forked into a process of `python -m mdlbench` per client.

Ends once its own standard input does: with the test run that started it.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any


def serve(listener: socket.socket) -> Any:
    """Return a request in a new process of its own, for each that comes; see `client`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return handled(connection)
        connection.close()


def handled(connection: socket.socket) -> Any:
    """Return the request in a child; this process tells the client how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 4, 3)
    child = os.fork()
    if child == 0:
        request = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        connection.close()
        for here, file in enumerate(files):
            os.dup2(file, here)
            os.close(file)
        return request
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.send(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def become(arguments: list[str], folder: str, variables: dict[str, str]) -> None:
    """Take over what a process begins with."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    search = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]
    here = [] if variables.get("PYTHONSAFEPATH") else [folder]
    sys.path[:] = [*here, *(os.path.join(folder, path) for path in search), *INSTALLED]  # noqa: PTH118
    sys.argv = ["mdlbench", *arguments]
    encoding, _, errors = variables.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdout = open(1, "w", -1, encoding, errors or "strict", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding, errors or "backslashreplace", closefd=False)  # noqa: SIM115
    importlib.invalidate_caches()


with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    INSTALLED = [path for path in sys.path[1:] if path not in given]
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # what was imported is not looked through again at the end of each process
    request = serve(listener)
become(*request)
runpy.run_module("mdlbench", run_name="__main__", alter_sys=True)
