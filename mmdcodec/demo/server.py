"""Serves the page: the address, temporary files, and when all ends."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import tempfile
import urllib.parse
from collections.abc import Collection, Iterator
from typing import Annotated, Any

import fastapi
import gradio as gr
import uvicorn
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from mmdcodec import formatting
from mmdcodec.demo import elements
from mmdcodec.demo.context import Context
from mmdcodec.demo.models import Models
from mmdcodec.demo.page import make_page
from mmdcodec.demo.piece import Piece
from mmdcodec.demo.sessions import Sessions
from mmdcodec.demo.uploads import Limits
from mmdcodec.errors import UserError

# All that the page shows comes from this server. The browser is told to load
# nothing else, whatever a version of Gradio may ask for.
_POLICY = (
  "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval';"
  " frame-ancestors 'self'"
)
_GONE = "This sound is gone."
# Names of this machine for itself.
_LOCAL = ("127.0.0.1", "localhost", "::1")
_FORM = 4096  # bytes of an upload that are not the file
_FAREWELL = 2  # seconds that open connections have when the server ends
# Fonts that every system has: others would be asked for on the network.
_FONTS = dict(
  font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
)


@contextlib.contextmanager
def opened(
  models: Models, *, host: str, port: int, limits: Limits
) -> Iterator[tuple[str, Any]]:
  """Makes the page and its server, and removes all files in the end.

  Args:
    models: the models.
    host: name or number of this machine on the network to listen on.
    port: where to listen; 0 for any that is free.
    limits: how much a user may give and ask for.

  Yields:
    (the page's address, a server whose `run` serves it).

  Raises:
    UserError: the address is not free.
  """
  with contextlib.ExitStack() as stack:
    listening = stack.enter_context(_listen(host, port))
    folder = pathlib.Path(
      stack.enter_context(tempfile.TemporaryDirectory(prefix="mmdcodec-demo-"))
    )
    uploads, sounds = folder / "uploads", folder / "sounds"
    uploads.mkdir()
    sounds.mkdir()
    # Gradio asks the environment, now and with each upload.
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    stack.callback(_restore, "GRADIO_TEMP_DIR", before)
    sessions = Sessions(sounds)
    stack.callback(sessions.end_all)
    app = make_app(
      Context(models, sessions, limits), _LOCAL if host in _LOCAL else None
    )
    config = uvicorn.Config(
      app,
      log_level="warning",
      timeout_graceful_shutdown=_FAREWELL,
    )
    server = _Server(config, listening, sessions)
    name = f"[{host}]" if ":" in host else host
    yield f"http://{name}:{listening.getsockname()[1]}/", server


def make_app(
  context: Context, names: Collection[str] | None = None
) -> fastapi.FastAPI:
  """Makes the web application: the page, and the sounds of its players.

  Args:
    context: what the page shares.
    names: names of this machine that a browser may use for it; None: any.
  """
  app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

  @app.get("/sound/{name}")
  def sound(
    name: str, wanted: Annotated[str, fastapi.Header(alias="range")] = ""
  ) -> fastapi.Response:
    found = context.sessions.find(name)
    if isinstance(found, Piece):
      return StreamingResponse(found.wav(), media_type="audio/wav")
    try:
      # Whole, because another click may remove the file at any time.
      contents = b"" if found is None else found.read_bytes()
    except FileNotFoundError:
      contents = b""
    if not contents:
      return PlainTextResponse(_GONE, 404)
    return part_of_wav(contents, wanted)

  app = gr.mount_gradio_app(
    app,
    make_page(context),
    path="/",
    footer_links=[],
    run_history=False,
    max_file_size=context.limits.size,
    ssr_mode=False,
    mcp_server=False,
    enable_monitoring=False,
    show_error=True,
    theme=gr.themes.Default(**_FONTS),
    css=elements.CSS,
  )
  guarded: Any = _Guarded(app, context.limits.size, names)
  return guarded


def part_of_wav(contents: bytes, wanted: str) -> fastapi.Response:
  """Answers a request for a file or a part of it: players ask so to seek.

  Args:
    contents: the file; not empty.
    wanted: the header `Range`, or ""; several parts are answered by the whole.
  """
  size = len(contents)
  headers = {"accept-ranges": "bytes"}
  match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", wanted.strip())
  if match is None or match[0] == "bytes=-":
    return Response(contents, media_type="audio/wav", headers=headers)
  if match[1]:
    first, last = int(match[1]), min(int(match[2] or size), size - 1)
  else:
    first, last = max(0, size - int(match[2])), size - 1
  if first > last:
    headers["content-range"] = f"bytes */{size}"
    return Response(status_code=416, headers=headers)
  headers["content-range"] = f"bytes {first}-{last}/{size}"
  part = contents[first : last + 1]
  return Response(part, 206, media_type="audio/wav", headers=headers)


def is_foreign(
  host: str, origin: str, names: Collection[str] | None = None
) -> bool:
  """Whether a request is that of another web site in the same browser.

  Such a site can give a name of its own the address of this machine, or send
  requests from its page.

  Args:
    host: the header `Host`.
    origin: the header `Origin`, or "".
    names: see `make_app`.
  """
  try:
    name = urllib.parse.urlsplit(f"//{host}").hostname
    from_host = urllib.parse.urlsplit(origin).netloc
  except ValueError:  # such as "[::1"
    return True
  if names is not None and name not in names:
    return True
  return bool(origin) and from_host != host


class _Guarded:
  """Refuses other sites and uploads that are too large; adds the policy."""

  def __init__(self, app: Any, most: int, names: Collection[str] | None):
    self._app, self._most, self._names = app, most, names

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
      return await self._app(scope, receive, send)
    headers = dict(scope["headers"])
    host, origin = (
      headers.get(key, b"").decode("latin-1") for key in (b"host", b"origin")
    )
    if is_foreign(host, origin, self._names):
      answer = PlainTextResponse("This page is for its own site alone.", 403)
      return await answer(scope, receive, send)
    size = headers.get(b"content-length", b"0")
    if not size.isdigit() or int(size) > self._most + _FORM:
      most = formatting.file_size(self._most)
      answer = PlainTextResponse(f"At most {most} are read.", 413)
      return await answer(scope, receive, send)

    async def answer_with_policy(message: Any) -> None:
      if message["type"] == "http.response.start":
        policy = (b"content-security-policy", _POLICY.encode())
        message["headers"] = [*message["headers"], policy]
      await send(message)

    await self._app(scope, receive, answer_with_policy)


class _Server(uvicorn.Server):
  """A server that stops the music when it ends, or the music would go on."""

  def __init__(
    self, config: uvicorn.Config, listening: socket.socket, sessions: Sessions
  ):
    super().__init__(config)
    self._listening, self._sessions = listening, sessions

  def run(self, sockets: Any = None) -> None:
    """Serves until it is told to end."""
    super().run(sockets=[self._listening])

  async def shutdown(self, sockets: Any = None) -> None:
    """Ends; see uvicorn."""
    self._sessions.end_all()
    await super().shutdown(sockets=sockets)


def serve(models: Models, *, host: str, port: int, limits: Limits) -> None:
  """Serves the page until Ctrl-C or SIGTERM; see `opened`."""
  # uvicorn handles both, and in the end sends them again to who handled them
  # before: by default SIGTERM would leave the files.
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    with opened(models, host=host, port=port, limits=limits) as (url, server):
      print(f"listening at {url} (Ctrl-C ends it)", flush=True)
      server.run()
  except KeyboardInterrupt:
    print("ended", flush=True)
  finally:
    signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
  """Opens the socket.

  Raises:
    UserError: the address is not free, or not of this machine.
  """
  try:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, *_, address = found[0]
    return socket.create_server(address[:2], family=family)
  except (OSError, OverflowError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(
      f"cannot listen on port {port} of {host} ({reason}); choose another"
      " --port or --host."
    ) from None


def _restore(name: str, before: str | None) -> None:
  if before is None:
    os.environ.pop(name, None)
  else:
    os.environ[name] = before
