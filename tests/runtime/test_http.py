"""The HTTP port, preloading, and what is logged: of `redisai serve` as a real process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from scripts.make_models import build_onnx_add, build_onnx_heavy, build_onnx_mul
from tests.runtime.serving import Serving, eventually
from tests.support import RedisServer, free_port, redis_binaries

Serve = Callable[..., Serving]


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of a path."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(port: int, name: str, **labels: str) -> float | None:
    """One sample of /metrics, None if it is not there."""
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def events(serving: Serving) -> list[dict[str, Any]]:
    """What was logged up to now, where it is logged as JSON."""
    return [json.loads(line) for line in serving.stderr.splitlines() if line.startswith("{")]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a Redis of one's own with options."""
    started: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        started.append(RedisServer(next(iter(redis_binaries().values())), tmp_path, *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def test_health_metrics_and_the_greeting(serve: Serve, data_dir: Path) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--http", port)
    assert any(f"http://127.0.0.1:{port}/metrics" in line for line in serving.banner)
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (200, "ok\n")
    assert get(port, "/nothing")[0] == 404
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", "BLOB", build_onnx_mul())
        client.execute_command("AI.TENSORSET", "in", "FLOAT", 3, 2, "VALUES", *range(6))
        client.execute_command("AI.TENSORSET", "bad", "FLOAT", 1, 3, "VALUES", *range(3))
        for _ in range(4):
            client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
        with pytest.raises(redis.ResponseError):
            client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "bad", "OUTPUTS", 1, "out")
        labels = {"model": "net", "db": "0", "backend": "ONNX", "device": "CPU"}
        assert metric(port, "redisai_model_runs_total", **labels) == 5
        assert metric(port, "redisai_model_errors_total", **labels) == 1
        assert metric(port, "redisai_model_samples_total", **labels) == 12
        assert metric(port, "redisai_model_run_seconds_count", **labels) == 4
        assert metric(port, "redisai_model_loaded_bytes", **labels) == len(build_onnx_mul())
        assert metric(port, "redisai_loaded_models") == 1
        assert metric(port, "redisai_clients") == 1
        assert metric(port, "redisai_upstream_connections", use="shared") == 1
        client.execute_command("AI.MODELDEL", "net")
        assert metric(port, "redisai_loaded_models") == 0
        assert metric(port, "redisai_model_runs_total", **labels) is None


def test_many_models_are_shown_and_clients_are_served_meanwhile(serve: Serve, data_dir: Path) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--http", port)
    blob = build_onnx_mul()
    with serving.client() as client:
        pipeline = client.pipeline(transaction=False)
        for i in range(60):
            pipeline.execute_command("AI.MODELSTORE", f"net{i}", "ONNX", "CPU", "BLOB", blob)
        assert pipeline.execute() == [b"OK"] * 60
        text = get(port, "/metrics")[1]
        assert text.count("redisai_model_runs_total{") == 60


def test_it_is_not_there_unless_asked_for(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir)
    assert not any("http://" in line for line in serving.banner)
    listening = {c.laddr.port for c in serving.server().net_connections("inet") if c.status == "LISTEN"}
    assert listening == {serving.port}


def test_a_taken_port_ends_the_start_with_one_line(serve: Serve, data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serving = serve("--data-dir", data_dir, "--http", port, "--log-format", "json", wait=False)
        assert serving.wait() == 1
    (line,) = [event for event in events(serving) if event["event"] == "cannot start"]
    assert f"port {port}" in line["reason"]
    assert "Traceback" not in serving.stderr


def test_many_slow_clients_neither_silence_it_nor_fill_the_log(serve: Serve, data_dir: Path) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--http", port)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for client in slow:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
    assert get(port, "/healthz") == (200, "ok\n")
    assert serving.stop() == 0
    for client in slow:
        client.close()
    assert "Traceback" not in serving.stderr


def test_it_comes_back_with_the_server(serve: Serve, data_dir: Path) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--http", port)
    serving.server().kill()
    eventually(lambda: get(port, "/readyz")[0] == 200)
    assert serving.client().ping()


def test_a_redis_that_hangs_or_is_gone_is_not_ready_but_alive(
    serve: Serve, upstream: Callable[..., RedisServer]
) -> None:
    server, port = upstream(), free_port()
    serve("--redis", server.url, "--http", port)
    assert get(port, "/readyz")[0] == 200
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    status, text = get(port, "/readyz")
    assert status == 503
    assert "does not answer" in text
    assert get(port, "/healthz")[0] == 200
    server.process.send_signal(signal.SIGCONT)
    eventually(lambda: get(port, "/readyz")[0] == 200)
    server.stop()
    eventually(lambda: get(port, "/readyz")[0] == 503)
    assert metric(port, "redisai_upstream_up") == 0
    server.start()
    eventually(lambda: get(port, "/readyz")[0] == 200)
    assert metric(port, "redisai_upstream_up") == 1


def test_draining_is_not_ready(serve: Serve, data_dir: Path) -> None:
    port = free_port()
    serving = serve("--data-dir", data_dir, "--http", port)
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "heavy", "ONNX", "CPU", "BLOB", build_onnx_heavy(6000))
        client.execute_command("AI.TENSORSET", "in", "FLOAT", 1, 2, "VALUES", 1, 2)
        connection = client.connection_pool.get_connection()
        connection.send_command("AI.MODELEXECUTE", "heavy", "INPUTS", 1, "in", "OUTPUTS", 1, "result")
        eventually(lambda: metric(port, "redisai_device_running", device="CPU") == 1)
        serving.signal(signal.SIGTERM)
        status, text = eventually(lambda: (found := get(port, "/readyz"))[0] == 503 and found)
        assert (status, text) == (503, "the server is stopping\n")
        assert connection.read_response() == b"OK"
        client.connection_pool.release(connection)
    assert serving.wait() == 0


# -- preloading --------------------------------------------------------------------------------------------------------


def test_preloaded_models_are_loaded_before_anybody_asks(serve: Serve, data_dir: Path) -> None:
    first = serve("--data-dir", data_dir)
    with first.client() as client:
        for key in ("a", "b", "c"):
            client.execute_command("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", build_onnx_mul())
        client.set("plain", "x")
    first.stop()
    port = free_port()
    second = serve("--data-dir", data_dir, "--preload", "a", "--preload", "c", "--http", port)
    assert get(port, "/readyz")[0] == 200
    assert metric(port, "redisai_loaded_models") == 2
    assert metric(port, "redisai_model_loads_total", model="c") == 1
    second.stop()
    third = serve("--data-dir", data_dir, "--preload", "all", "--http", port, "--log-format", "json")
    assert metric(port, "redisai_loaded_models") == 3
    loaded = [event for event in events(third) if event["event"] == "model loaded"]
    assert sorted(event["model"] for event in loaded) == ["a", "b", "c"]
    assert {"ms", "bytes", "backend", "device", "db", "level", "timestamp"} <= loaded[0].keys()


def test_a_model_that_makes_room_for_others_is_told(serve: Serve, data_dir: Path) -> None:
    blob = build_onnx_mul()
    limit = len(blob) + 1  # an ONNX model is reckoned as large as its blob
    serving = serve("--data-dir", data_dir, "--loaded-models-limit-bytes", limit, "--log-format", "json")
    with serving.client() as client:
        for key in ("first", "second"):
            client.execute_command("AI.MODELSTORE", key, "ONNX", "CPU", "BLOB", blob)
    assert serving.stop() == 0
    (unloaded,) = [event for event in events(serving) if event["event"] == "model unloaded"]
    assert (unloaded["model"], unloaded["backend"], unloaded["why"]) == ("first", "ONNX", "others need its memory")


def test_a_named_model_that_is_missing_keeps_the_server_unready_until_it_is_there(
    serve: Serve, data_dir: Path, upstream: Callable[..., RedisServer]
) -> None:
    server, port = upstream(), free_port()
    serving = serve("--redis", server.url, "--preload", "late", "--http", port, "--log-format", "json")
    assert get(port, "/readyz") == (503, "preload of late: ERR model key is empty\n")
    assert [e["obstacles"] for e in events(serving) if e["event"] == "preload incomplete"]
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "late", "ONNX", "CPU", "BLOB", build_onnx_mul())
    assert eventually(lambda: get(port, "/readyz") == (200, "ok\n"))


def test_all_passes_over_what_a_framework_refuses(serve: Serve, upstream: Callable[..., RedisServer]) -> None:
    server, port = upstream(), free_port()
    with redis.Redis(port=server.port) as bare:
        serving = serve("--redis", server.url)
        with serving.client() as client:
            client.execute_command("AI.MODELSTORE", "good", "ONNX", "CPU", "BLOB", build_onnx_add())
        serving.stop()
        bare.copy("good", "broken")
        bare.hset("broken", mapping={"id": "another", "blob:0": b"garbage"})
        bare.copy("good", "unknown")
        bare.hset("unknown", mapping={"id": "third", "backend": "NOSUCH"})
    serving = serve("--redis", server.url, "--preload", "all", "--http", port, "--log-format", "json")
    status, text = get(port, "/readyz")
    assert status == 503  # the backend that is not installed
    assert text == "preload of unknown: ERR Could not load backend: no plugin for NOSUCH is installed\n"
    assert metric(port, "redisai_loaded_models") == 1
    refused = {event["model"] for event in events(serving) if event["event"] == "model not loaded"}
    assert refused == {"broken", "unknown"}


def test_a_stop_does_not_wait_for_a_preload(serve: Serve, upstream: Callable[..., RedisServer]) -> None:
    server = upstream()
    serving = serve("--redis", server.url, "--preload", "missing")
    assert serving.stop() == 0


# -- credentials -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a self-signed certificate for 127.0.0.1."""
    path = tmp_path_factory.mktemp("tls")
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", path / "key", "-out", path / "crt"],
        capture_output=True,
        timeout=20,
        check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("no openssl to make a certificate with")
    return path


PASSWORD = "p@ss:w/rd%41"
QUOTED = "p%40ss%3Aw%2Frd%2541"


@pytest.mark.parametrize(("user", "tls"), [("", False), ("", True), ("server", False)])
def test_the_urls_credentials_are_the_servers_own(
    serve: Serve, upstream: Callable[..., RedisServer], certificate: Path, user: str, tls: bool
) -> None:
    """They preload and probe; a client of the server has none of them."""
    server, port = upstream(), free_port()
    environment = {}
    scheme, redis_port = "redis", server.port
    with redis.Redis(port=server.port) as bare:
        serving = serve("--redis", server.url)
        with serving.client() as client:
            client.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", "BLOB", build_onnx_mul())
        serving.stop()
        if tls:
            scheme, redis_port = "rediss", free_port()
            files = {"tls-cert-file": "crt", "tls-key-file": "key", "tls-ca-cert-file": "crt"}
            try:
                bare.config_set("tls-auth-clients", "no")
                bare.config_set(
                    "tls-port", redis_port, *[x for k, f in files.items() for x in (k, str(certificate / f))]
                )
            except redis.ResponseError as error:
                pytest.skip(f"this Redis has no TLS: {error}")
            environment = {"SSL_CERT_FILE": str(certificate / "crt")}
        if user:
            bare.acl_setuser(user, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
            bare.execute_command("ACL", "SETUSER", "default", "off")
        else:
            bare.config_set("requirepass", PASSWORD)
    url = f"{scheme}://{user}:{QUOTED}@127.0.0.1:{redis_port}"
    serving = serve("--redis", url, "--preload", "net", "--http", port, environment=environment)
    assert get(port, "/readyz") == (200, "ok\n")
    assert metric(port, "redisai_loaded_models") == 1
    assert PASSWORD not in serving.stderr + "".join(serving.banner)
    assert QUOTED not in serving.stderr + "".join(serving.banner)
    with serving.client() as client:
        for words in ("GET net", "AI.MODELGET net META", "AI.INFO net"):
            with pytest.raises(redis.AuthenticationError):
                client.execute_command(*words.split())
    with serving.client(username=user or None, password=PASSWORD) as client:
        assert client.execute_command("AI.INFO", "net")[1] == b"net"


def test_without_credentials_it_still_tells_whether_redis_is_there(
    serve: Serve, upstream: Callable[..., RedisServer]
) -> None:
    server, port = upstream(), free_port()
    with redis.Redis(port=server.port) as bare:
        bare.config_set("requirepass", "secret")
    serving = serve("--redis", server.url, "--http", port, "--preload", "all")
    assert get(port, "/readyz") == (503, "preload of all models: NOAUTH Authentication required.\n")
    assert metric(port, "redisai_upstream_up") == 1
    with serving.client(password="secret") as client:
        client.execute_command("AI.TENSORSET", "x", "FLOAT", 1, "VALUES", 1)


# -- logs --------------------------------------------------------------------------------------------------------------


def test_lines_for_loads_failures_slow_runs_and_refused_clients(serve: Serve, data_dir: Path) -> None:
    serving = serve("--data-dir", data_dir, "--log-format", "json", "--slow-run-ms", 20, "--max-clients", 1)
    with serving.client() as client:
        client.execute_command("AI.MODELSTORE", "net", "ONNX", "CPU", "BLOB", build_onnx_heavy(1500))
        client.execute_command("AI.TENSORSET", "in", "FLOAT", 1, 2, "VALUES", 1, 2)
        client.execute_command("AI.TENSORSET", "bad", "FLOAT", 1, 3, "VALUES", 1, 2, 3)
        client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "in", "OUTPUTS", 1, "out")
        for _ in range(5):
            with pytest.raises(redis.ResponseError):
                client.execute_command("AI.MODELEXECUTE", "net", "INPUTS", 1, "bad", "OUTPUTS", 1, "out")
        with serving.client() as another, pytest.raises(redis.RedisError):
            another.ping()
    assert serving.stop() == 0
    logged = {event["event"]: event for event in events(serving) if event["process"] == "server"}
    assert list(logged) == [
        "serving", "model loaded", "slow run", "run failed", "client refused", "stopping", "stopped",
    ]  # fmt: skip
    model = {"model": "net", "db": 0, "backend": "ONNX", "device": "CPU"}
    for name in ("model loaded", "slow run", "run failed"):
        assert model.items() <= logged[name].items()
    assert logged["slow run"]["ms"] >= 20
    assert "Got invalid dimensions" in logged["run failed"]["error"]
    assert sum(event["event"] == "run failed" for event in events(serving)) == 1
    assert logged["client refused"]["max_clients"] == 1
