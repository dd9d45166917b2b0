"""A bucket in the memory of this process, as fsspec (through etils) and as TensorStore (through orbax) see gs://.

Both write into the same dictionary: fsspec by a file system registered for the scheme, TensorStore by the three kinds
of HTTP requests that it makes of Cloud Storage's JSON interface.
"""

import http.server
import json
import threading
import urllib.parse

import fsspec
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    protocol = ("gs", "gcs")
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, *args, finalize_on_close=True, **kwargs):
        super().__init__(*args, **kwargs)

    @classmethod
    def _strip_protocol(cls, path):
        for scheme in ("gs://", "gcs://"):
            path = str(path).removeprefix(scheme)
        return MemoryFileSystem._strip_protocol("memory://" + path.lstrip("/"))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def key(self, name=""):
        """Where an object lies in the store."""
        path = urllib.parse.urlsplit(self.path).path
        bucket, _, rest = path.partition("/b/")[2].partition("/o")
        return f"/{bucket}/{name or urllib.parse.unquote(rest.removeprefix('/'))}"

    @property
    def query(self):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    def do_GET(self):
        key = self.key()
        if "/b/" not in self.path:  # whoever asks for credentials finds none
            return self.answer(404)
        if key.endswith("/"):  # a listing
            bucket, prefix = key, self.query.get("prefix", "")
            names = sorted(k.removeprefix(bucket) for k in Bucket.store if k.startswith(bucket + prefix))
            items = [{"name": name, "size": str(len(Bucket.store[bucket + name].getvalue()))} for name in names]
            return self.answer(200, json.dumps({"items": items}).encode(), Content_Type="application/json")
        if key not in Bucket.store:
            return self.answer(404)
        data, asked = Bucket.store[key].getvalue(), self.headers.get("Range")
        generation = {"x_goog_generation": generation_of(data)}
        if not asked or not data:
            return self.answer(200, data, **generation)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else len(data) - int(last)
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        where = f"bytes {begin}-{end}/{len(data)}"
        return self.answer(206, data[begin : end + 1], Content_Range=where, **generation)

    def do_POST(self):
        body, query = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.query
        key = self.key(query["name"])
        if query.get("ifGenerationMatch") == "0" and key in Bucket.store:
            return self.answer(412)
        fsspec.filesystem("gcs").pipe_file("gs:/" + key, body)
        told = {"name": query["name"], "generation": generation_of(body)}
        return self.answer(200, json.dumps(told).encode(), Content_Type="application/json")

    def do_DELETE(self):
        Bucket.store.pop(self.key(), None)
        self.answer(204)


def generation_of(data):
    return str(hash(data) % 10**12 + 1)


def serve(monkeypatch):
    """An empty bucket until the end of the test."""
    for scheme in ("gs", "gcs"):
        fsspec.register_implementation(scheme, Bucket, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"localhost:{server.server_port}"
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://{address}")
    monkeypatch.setenv("GCE_METADATA_ROOT", address)
    return server
