"""The emulator of Google's store, with what its clients rely on and it lacks.

    python tests/gcs_server.py PORT BUCKET

It neither tells the generation of an object that is read nor refuses a write
that is meant for another generation (`ifGenerationMatch`). TensorStore needs
both to write the manifest of a checkpoint; locks need the second.
"""

import sys
from http import HTTPStatus

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound


def generation_of(storage, bucket, name):
  """Returns the generation of an object, "0" if there is none."""
  try:
    return storage.get_file_obj(bucket, name)["generation"]
  except NotFound:
    return "0"


def name_in(request):
  """Returns the name of the object that a request is about, if any."""
  if name := request.params.get("dest_object_id"):
    return name
  if name := request.params.get("object_id"):
    return name
  if name := request.query.get("name"):
    return name[0]
  data = request.data if request.method == server.POST else None
  return data["meta"].get("name") if isinstance(data, dict) else None


def checked(handler):
  """Wraps a handler of requests."""

  def handle(request, response, storage, *args, **kwargs):
    bucket = request.params.get("bucket_name")
    wanted = request.query.get("ifGenerationMatch")
    if wanted:
      name = name_in(request)
      if generation_of(storage, bucket, name) != wanted[0]:
        response.status = HTTPStatus.PRECONDITION_FAILED
        response.json({"error": {"code": 412, "message": "conditionNotMet"}})
        return
    handler(request, response, storage, *args, **kwargs)
    if request.method == server.GET and (
      name := request.params.get("object_id")
    ):
      response["x-goog-generation"] = generation_of(storage, bucket, name)

  return handle


def main():
  server.HANDLERS = tuple(
    (path, {method: checked(handler) for method, handler in handlers.items()})
    for path, handlers in server.HANDLERS
  )
  port, bucket = sys.argv[1:]
  server.create_server("127.0.0.1", int(port), True, bucket).run()


if __name__ == "__main__":
  main()
