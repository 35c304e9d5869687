"""Has a server run `python -m mdlbench ARGUMENTS` in this process's place; exits as it does."""

import json
import os
import socket
import sys
import time

PATIENCE_SECONDS = 300.0


def connected(address: str) -> socket.socket:
    """A connection, once the server listens."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return connection


def main() -> None:
    variables = dict(os.environ)
    with connected(variables.pop("MDLBENCH_TEST_SERVER")) as connection:
        folder = os.getcwd()  # noqa: PTH109  (pathlib takes longer to import than this to run)
        request = json.dumps([sys.argv[1:], folder, variables]).encode()
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(request)
        sys.exit(connection.recv(1)[0])


main()
