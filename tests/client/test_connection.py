import inspect
import shutil
import ssl
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

import redisai_py
from redisai_py import AsyncClient, Client
from redisai_py.client import AsyncDag, AsyncPipeline, Dag, Pipeline
from redisai_py.client.methods import Extension
from tests.client.conftest import Blocking
from tests.proxy import Proxy
from tests.runtime.serving import eventually
from tests.support import LOCALHOST, free_port

SCRIPT = """
def bump(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("INCR", keys[0])
    return tensors[0]
"""


@pytest.fixture
def proxy(front_door):
    proxy = Proxy(front_door.port)
    yield proxy
    proxy.close()


def retry_of(make_client, retries):
    """The kind of retry object that this client takes."""
    blocking = isinstance(make_client(), redis.Redis)
    return (Retry if blocking else AsyncRetry)(NoBackoff(), retries)


@pytest.fixture
def through_proxy(make_client, proxy):
    """A client behind the proxy that tries again at once, up to three times."""
    con = make_client(port=proxy.port, retry=retry_of(make_client, 3))
    con.scriptstore("s", "CPU", SCRIPT, "bump")
    con.tensorset("a", np.array([1.0]))
    return con


def test_repeatable_calls_are_sent_again(through_proxy, proxy):
    proxy.lose(b"AI.TENSORSET", losses=2)
    assert through_proxy.tensorset("a", np.array([2.0])) == "OK"
    assert proxy.seen == 3
    proxy.lose(b"AI.TENSORGET", losses=1)
    assert through_proxy.tensorget("a").tolist() == [2.0]
    assert proxy.seen == 2
    proxy.lose(b"AI.DAGEXECUTE", losses=1)
    assert through_proxy.dag(load="a", persist="b").tensorset("b", [1], dtype="int8").execute() == ["OK"]
    assert proxy.seen == 2


@pytest.mark.parametrize(
    ("mark", "send"),
    [
        (b"AI.SCRIPTEXECUTE", lambda con: con.scriptexecute("s", "bump", keys="n", inputs="a", outputs="b")),
        (b"AI.SCRIPTDEL", lambda con: con.scriptdel("s")),
        (b"AI.MODELEXECUTE", lambda con: con.modelexecute("m", ["state", "x"], [b"state"])),
        (b"AI.DAGEXECUTE", lambda con: con.dag(load="a", persist="a").tensorset("a", [1], dtype="int8").execute()),
        (
            b"AI.DAGEXECUTE",
            lambda con: con.dag(routing="a").scriptexecute("s", "bump", keys="n", inputs=[], outputs=[]).execute(),
        ),
        (
            b"AI.SCRIPTEXECUTE",
            lambda con: con.pipeline(False).set("x", 1).scriptexecute("s", "bump", keys="n", inputs="a").execute(),
        ),
    ],
)
def test_other_calls_are_sent_once(through_proxy, proxy, mark, send):
    proxy.lose(mark, losses=1)
    with pytest.raises(redis.ConnectionError):
        send(through_proxy)
    assert proxy.seen == 1
    assert through_proxy.ping()


def test_a_pipeline_of_repeatable_calls_is_sent_again(through_proxy, proxy):
    pipe = through_proxy.pipeline()
    pipe.tensorset("a", [5], dtype="int8").tensorget("a")
    proxy.lose(b"AI.TENSORSET", losses=1)
    assert pipe.execute()[1].tolist() == [5]
    assert proxy.seen == 2


def test_retries_come_back_after_a_pipeline_that_had_none(through_proxy, proxy):
    with pytest.raises(redis.ResponseError):
        through_proxy.pipeline(False).scriptexecute("s", "nothing", inputs="a").execute()
    proxy.lose(b"AI.TENSORGET", losses=1)
    assert through_proxy.tensorget("a").tolist() == [1.0]


def test_a_run_may_take_long(make_client):
    """redis-py gives up after 5 s and sends the command again."""
    for con in (make_client(), Client.from_url("redis://localhost"), AsyncClient.from_url("redis://localhost")):
        assert con.connection_pool.connection_kwargs["socket_timeout"] is None
    assert make_client(socket_timeout=7).connection_pool.connection_kwargs["socket_timeout"] == 7
    assert Client(False, True, "localhost", 1, 0, None, 7).connection_pool.connection_kwargs["socket_timeout"] == 7


def test_progress(make_client):
    con = make_client()
    data = bytes(3_500_000)  # no model, but that shows only at the end
    told = []
    with pytest.raises(redis.ResponseError):
        con.modelstore("m", "ONNX", "CPU", data, progress=lambda sent, total: told.append((sent, total)))
    sent, totals = zip(*told, strict=True)
    assert len(told) >= 4
    assert list(sent) == sorted(sent)
    assert set(totals) == {sent[-1]}
    assert sent[-1] > len(data)


def test_progress_that_fails_costs_a_connection_and_nothing_else(make_client):
    con = make_client(max_connections=1, socket_timeout=20, retry=retry_of(make_client, 0))
    told = []

    def give_up_halfway(sent, total):
        told.append(sent)
        if sent > total / 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        con.modelstore("m", "ONNX", "CPU", bytes(5_000_000), progress=give_up_halfway)
    assert 1 < len(told) < 5
    assert con.tensorset("x", [1], dtype="int8") == "OK"


def test_health_checks_stay_out_of_commands_that_are_sent_in_pieces(make_client):
    con = make_client(max_connections=1, socket_timeout=20, health_check_interval=3600, retry=retry_of(make_client, 0))
    connection = con.connection_pool.make_connection()

    def an_hour_passes(sent, total):
        connection.next_health_check = 0

    con.connection_pool.make_connection = lambda: connection
    with pytest.raises(redis.ResponseError, match="protobuf"):
        con.modelstore("m", "ONNX", "CPU", bytes(3_500_000), progress=an_hour_passes)
    assert con.tensorset("x", [1], dtype="int8") == "OK"


def test_a_large_command_is_not_copied(make_client):
    con, array = make_client(), np.zeros(32_000_000, np.uint8)
    con.tensorset("x", array[:1])
    tracemalloc.start()
    try:
        con.tensorset("x", array)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes / 2
    finally:
        tracemalloc.stop()


def test_debug(make_client, capsys):
    con = make_client(debug=True)
    con.tensorset("x", [2, 3, 4, 5], dtype="float")
    con.tensorset("y", np.array([1, 2], dtype="int8"))
    con.ping()
    assert capsys.readouterr().out.splitlines() == [
        "AI.TENSORSET x FLOAT 4 VALUES 2 3 4 5",
        r"AI.TENSORSET y INT8 2 BLOB b'\x01\x02'",
        "PING",
    ]


def test_one_connection_for_everything(make_client):
    con = make_client(single_connection_client=True)
    con.tensorset("x", [1], dtype="int8")
    assert con.tensorget("x").tolist() == [1]
    first = con.client_id()
    assert con.tensorget("x").tolist() == [1]
    assert con.client_id() == first


def test_a_client_of_one_connection_is_like_the_one_it_comes_from(make_client, redis_url):
    con = make_client(debug=True, enable_postprocess=False, direct=redis_url).client()
    con.tensorset("x", np.array([1], dtype="int8"))
    assert con.get("x") == con.tensorget("x")  # from Redis itself, as it is
    first = con.client_id()
    assert con.client_id() == first
    (con.aclose if isinstance(con, Blocking) else con.close)()


def test_direct_mode_wants_a_client_of_its_own_kind(make_client):
    for direct in (6379, redis.Redis() if isinstance(make_client(), Blocking) else redis.asyncio.Redis()):
        with pytest.raises(TypeError, match="direct must be a URL or a redis"):
            make_client(direct=direct)


def test_words_that_are_no_words(make_client):
    con = make_client()
    with pytest.raises(redis.DataError, match="Invalid input of type: 'NoneType'"):
        con.tensorset(None, [1], dtype="int8")
    assert con.tensorset(7, [1], dtype="int8") == "OK"
    assert con.tensorget(b"7").tolist() == [1]


def test_urls(front_door, bare, redis_url):
    with Client.from_url(f"redis://{LOCALHOST}:{front_door.port}/3", direct=f"{redis_url}/3", debug=False) as con:
        con.tensorset("x", [1], dtype="int8")
        assert not bare.exists("x")
        assert con.tensorget("x").tolist() == [1]
        raw = Client.from_url(f"redis://{LOCALHOST}:{front_door.port}/3", enable_postprocess=False)
        assert raw.tensorget("x", meta_only=True) == [b"dtype", b"INT8", b"shape", [1]]
        raw.close()
        con.flushdb()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself: (certificate, key)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-out", cert, "-keyout", key], check=True, capture_output=True, timeout=20)
    return cert, key


def test_tls(make_client, front_door, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    proxy = Proxy(front_door.port, context)
    try:
        con = make_client(host="localhost", port=proxy.port, ssl=True, ssl_ca_certs=str(certificate[0]))
        con.tensorset("x", np.arange(100_000))
        assert con.tensorget("x").sum() == 4999950000
    finally:
        proxy.close()


@pytest.fixture
def sentinel_port(redis_server, tmp_path):
    """A Sentinel that watches the stock Redis, under the name `main`."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server to run a Sentinel with")
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind {LOCALHOST}\nsentinel monitor main {LOCALHOST} {redis_server.port} 1\n"
    )
    process = subprocess.Popen([binary, configuration, "--sentinel"], stdout=subprocess.DEVNULL, cwd=tmp_path)
    with redis.Redis(port=port, retry=None) as probe:
        eventually(probe.ping)
    yield port
    process.kill()
    process.wait()


def test_tensors_straight_from_the_master_that_a_sentinel_names(make_client, front_door, sentinel_port, bare):
    blocking = isinstance(make_client(), redis.Redis)
    sentinel = (Sentinel if blocking else AsyncSentinel)([(LOCALHOST, sentinel_port)])
    master = sentinel.master_for("main")
    con = make_client(direct=master)
    con.tensorset("x", [1], dtype="int8")
    assert bare.type("x") == b"string"
    assert con.tensorget("x").tolist() == [1]
    for client in (master, *sentinel.sentinels):
        if blocking:
            client.close()
        else:
            con.wait(client.aclose())


def test_clients_of_a_sentinel(redis_server, sentinel_port):
    sentinel = Sentinel([(LOCALHOST, sentinel_port)])
    con = sentinel.master_for("main", redis_class=Client)
    assert isinstance(con, Client)
    assert con.ping()
    for client in (con, *sentinel.sentinels):
        client.close()


OURS = [
    name
    for kind in (Client, Extension)
    for name, value in vars(kind).items()
    if callable(value) and not name.startswith("_")
]
NAMES_OF_ASYNCIO = {"close": "aclose"}


@pytest.mark.parametrize("name", sorted(set(OURS) - {"from_url"}))
def test_both_clients_have_the_same_methods(name):
    blocking, coroutine = getattr(Client, name), getattr(AsyncClient, NAMES_OF_ASYNCIO.get(name, name))
    if name not in ("client", "close", "dag", "pipeline"):
        assert inspect.iscoroutinefunction(coroutine)
        assert inspect.signature(blocking) == inspect.signature(coroutine)
        assert blocking.__doc__ == coroutine.__doc__
    else:
        assert list(inspect.signature(blocking).parameters)[1:] in (
            list(inspect.signature(coroutine).parameters)[1:],
            [],
        )


@pytest.mark.parametrize(("blocking", "coroutine"), [(Dag, AsyncDag), (Pipeline, AsyncPipeline)])
def test_both_builders_have_the_same_methods(blocking, coroutine):
    own = {n for n in vars(blocking) if n[0] != "_"}
    assert own == {n for n in vars(coroutine) if n[0] != "_"}
    assert "execute" in own


def test_clients_are_imported_when_asked_for():
    code = "import sys, redisai_py; assert 'redis' not in sys.modules; redisai_py.Client; assert 'redis' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        redisai_py.Nothing  # noqa: B018
