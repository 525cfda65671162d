"""deploy/nginx/nginx.conf in a real nginx, with small servers as replicas: who gets which request."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from speech_qc.capacity.host import free_port
from waiting import block_until

CONF = (Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
CALLS = [f"call-{number}" for number in range(24)]


@contextmanager
def replica(name: str, status: int = 200) -> Iterator[int]:
    """A server that responds with its name and the path that it was asked for, or cuts the connection (status 0)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not status:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            body = f"{name} {self.path}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def balanced(folder: Path, ports: list[int]) -> Iterator[httpx.Client]:
    """The configuration of the repository, except that the addresses of replicas are given, not looked up."""
    program = shutil.which("nginx", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))
    if program is None:
        pytest.skip("nginx is not installed (Debian and Ubuntu: apt-get install nginx)")
    port = free_port()
    text, count = re.subn(
        r"server speech-qc:8000 resolve (.*);",
        lambda found: "".join(f"server 127.0.0.1:{one} {found[1]};" for one in ports),
        CONF,
    )
    assert count == len(re.findall(r"^    upstream ", CONF, re.M)) == 2
    text = text.replace("/tmp/", f"{folder}/").replace("listen 8080;", f"listen 127.0.0.1:{port};")
    (folder / "nginx.conf").write_text(f"daemon off;\nmaster_process off;\n{text}", encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def responds() -> bool:
                try:
                    return client.get("/metrics").status_code == 404
                except httpx.TransportError:
                    return False

            block_until(responds, "nginx responds", details=lambda: (folder / "log").read_text("utf-8", "replace"))
            yield client
    finally:
        process.terminate()
        process.wait(10)


def taken_by(client: httpx.Client, path: str, **options: str) -> str:
    answer = client.get(path, params=options)
    name, _, asked = answer.text.partition(" ")
    assert asked == str(answer.request.url.raw_path, "ascii"), "the address is passed on as it came"
    return name


@pytest.mark.parametrize(
    "path", ["/v1/stream", "/v1/stream/", "/v1/telephony", "/v1/telephony/twilio", "/v1/telephony/twilio/"]
)
def test_a_socket_that_a_replica_refuses_goes_to_another_one(tmp_path, path):
    with replica("dead", 503) as dead, replica("b") as port, balanced(tmp_path, [dead, port]) as client:
        assert {taken_by(client, path) for _ in range(6)} == {"b"}
        assert client.get("/v1/model").status_code in (200, 503), "an answer of the service passes"


def test_the_metrics_of_one_replica_are_not_given_out(tmp_path):
    with replica("a") as port, balanced(tmp_path, [port]) as client:
        assert [client.get(path).status_code for path in ("/metrics", "/metrics/", "/metrics//")] == [404] * 3


def test_no_key_is_logged_when_a_replica_cuts_a_connection(tmp_path):
    with replica("a", 0) as port, balanced(tmp_path, [port]) as client:
        assert client.get("/v1/telephony/telnyx", params={"key": "sqc_secret"}).status_code in (502, 504)
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "/v1/telephony/telnyx" in log, "the access log has the path"
    assert "sqc_secret" not in log


def test_all_that_names_a_call_goes_to_one_replica_and_to_another_one_if_that_is_down(tmp_path):
    with ExitStack() as first, replica("b") as port_b:
        ports = [first.enter_context(replica("a")), port_b]
        with balanced(tmp_path, ports) as client:
            owners = {}
            for call in CALLS:
                owners[call] = taken_by(client, "/v1/stream", call=call, leg="agent")
                assert taken_by(client, "/v1/stream", leg="cust omer", call=call, encoding="mulaw") == owners[call]
                assert taken_by(client, "/v1/watch", call=call) == owners[call]
            assert set(owners.values()) == {"a", "b"}, "calls are spread"
            assert {taken_by(client, "/v1/stream") for _ in range(8)} == {"a", "b"}, "without a call, by connections"
            assert {taken_by(client, "/v1/calls", state="live") for _ in range(8)} == {"a", "b"}
            first.close()
            for path in ("/v1/stream", "/v1/watch"):
                assert {taken_by(client, path, call=call) for call in CALLS} == {"b"}
