"""gcp-storage-emulator with what TensorStore needs besides: generations in headers, and uploads on a condition.

python tests/gcs.py PORT serves an empty bucket named `bucket` from memory.
"""

import sys
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download, _insert = objects.download, objects.insert


def _generation(request, storage, name):
    try:
        return storage.get_file_obj(request.params["bucket_name"], name)["generation"]
    except NotFound:
        return "0"


def download(request, response, storage, *args, **kwargs):
    generation = _generation(request, storage, request.params["object_id"])
    if request.query.get("ifGenerationNotMatch") == [generation] != ["0"]:
        response.status = HTTPStatus.NOT_MODIFIED
        return
    _download(request, response, storage, *args, **kwargs)
    response["x-goog-generation"] = generation


def insert(request, response, storage, *args, **kwargs):
    wanted = request.query.get("ifGenerationMatch")
    if wanted and wanted != [_generation(request, storage, request.query["name"][0])]:
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    _insert(request, response, storage, *args, **kwargs)


if __name__ == "__main__":
    objects.download, objects.insert = download, insert  # before the server takes them into its table
    from gcp_storage_emulator.server import create_server

    create_server("localhost", int(sys.argv[1]), True, "bucket").run()
