"""Ports for processes that meet on this machine."""

import socket


def free_port():
  """A port at which nobody listens."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]
