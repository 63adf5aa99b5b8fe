"""Connections to Redis are cut or Redis dies: clients are closed where Redis closed them, and what never left is
carried out once Redis is back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from redisai_py.config import Config
from tests.conformance.conversation import Conversation, talk
from tests.conformance.transcript import matches, request_bytes
from tests.proxy import Proxy
from tests.support import FrontDoor, RedisServer, exchange

FULL = "-ERR max number of clients reached"
CLOSED = "closed"
MEGABYTE = 1024 * 1024
RUN = "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u"


@pytest.fixture
def proxy(redis_server: RedisServer, bare: redis.Redis) -> Iterator[Proxy]:
    """Between the front door of `door` and Redis."""
    proxy = Proxy(redis_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def door(proxy: Proxy) -> Iterator[FrontDoor]:
    """A front door behind the proxy."""
    server = FrontDoor(Config(redis=proxy.url, port=0, drain_timeout_s=2))
    yield server
    server.stop()


@pytest.fixture
def client(door: FrontDoor) -> Iterator[Conversation]:
    """A client of `door` with both kinds of connections to Redis open."""
    with talk(door.port) as conversation:
        conversation.given("AI.TENSORSET t FLOAT 1 2 VALUES 1 2", "SET a 1", "AI.TENSORGET t")
        yield conversation


def _reply_or_end(conversation: Conversation, command: str = "") -> str:
    """A reply, or CLOSED: no error takes the place of one that Redis did not give."""
    try:
        return conversation.ask(command) if command else conversation.reply()
    except (EOFError, ConnectionError):
        return CLOSED


def _is_closed(conversation: Conversation) -> bool:
    try:
        while conversation.socket.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


def _noticed(door: FrontDoor) -> None:
    """Returns when the server has read that its connections have ended."""
    for _ in range(2):
        assert exchange(door.port, b"QUIT\r\n", 5) == b"+OK\r\n"


def test_cut_while_idle(client: Conversation, proxy: Proxy, door: FrontDoor) -> None:
    """A client of which Redis knows nothing that matters goes on."""
    for command, reply in (("GET a", '"1"'), ("AI.TENSORGET t VALUES", '["1", "2"]')):
        proxy.cut()
        _noticed(door)
        assert [client.ask(command) for _ in range(3)] == [reply] * 3


@pytest.mark.parametrize(
    "command", ["GET a", "AI.TENSORGET t VALUES", "AI.TENSORGET t BLOB", "AI.TENSORSET u FLOAT 1 VALUES 1"]
)
def test_cut_with_replies_outstanding(command: str, client: Conversation, proxy: Proxy, door: FrontDoor) -> None:
    for _ in range(2):  # so that the server knows it
        client.ask(command)
    proxy.hold()
    client.send(*[command] * 5, "PING", "AI.TENSORGET t META")
    assert proxy.holding.wait(20)
    proxy.cut()
    assert _reply_or_end(client) == CLOSED
    with talk(door.port) as again:
        assert again.ask("GET a") == '"1"'
        assert again.ask("AI.TENSORGET t VALUES") == '["1", "2"]'


@pytest.mark.parametrize("command", ["ECHO abcd", "AI.TENSORGET t VALUES", "AI.TENSORGET t BLOB"])
def test_what_was_answered_is_delivered_before_the_end(command: str, client: Conversation, proxy: Proxy) -> None:
    """And nothing behind the first command without an answer is."""
    whole = len(b"$4\r\nabcd\r\n") if command.startswith("ECHO") else len(client_value(client))
    for _ in range(2):  # so that the server knows it
        client.ask(command)
    proxy.cut_after(3 * whole)
    client.send(*[command] * 1000, "AI.TENSORSET late FLOAT 1", "PING")
    replies = []
    while (reply := _reply_or_end(client)) != CLOSED:
        replies.append(reply)
    assert len(replies) == 3
    assert len(set(replies)) == 1
    assert not replies[0].startswith("-")


def client_value(client: Conversation) -> bytes:
    """What Redis answers to the GETRANGE of an AI.TENSORGET of t."""
    value = client.ask("STRLEN t")
    return b"$%b\r\n" % value[1:].encode() + bytes(int(value[1:]) + 2)


def test_cut_in_the_middle_of_a_reply(client: Conversation, proxy: Proxy, bare: redis.Redis) -> None:
    """The client has half a reply: nothing that could follow it would be understood."""
    bare.set("big", b"x" * MEGABYTE)
    proxy.cut_after(300_000)
    client.send("GET big")
    assert _is_closed(client)


def test_cut_in_the_middle_of_a_large_tensor(client: Conversation, proxy: Proxy, door: FrontDoor) -> None:
    client.given(f"AI.TENSORSET big UINT8 {MEGABYTE}")
    proxy.cut_after(300_000)
    client.send("AI.TENSORGET big BLOB")
    assert _is_closed(client)
    with talk(door.port) as again:
        assert len(again.ask("AI.TENSORGET big BLOB")) > MEGABYTE


@pytest.mark.parametrize(
    "state",
    [["MULTI", "SET x 1"], ["MULTI", "AI.TENSORSET x FLOAT 1"], ["WATCH a"], ["SUBSCRIBE c"], ["MONITOR"],
     ["HELLO 3", "SUBSCRIBE c"], ["CLIENT SETNAME me"], ["HELLO 3", "CLIENT TRACKING ON"]],
    ids=" ".join,
)  # fmt: skip
def test_clients_with_state_at_redis_are_closed(state: list[str], client: Conversation, proxy: Proxy) -> None:
    client.given(*state)
    proxy.cut()
    assert _is_closed(client)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_subscription_that_is_not_confirmed(protocol: int, client: Conversation, proxy: Proxy) -> None:
    client.given(f"HELLO {protocol}")
    proxy.hold()
    client.send("SUBSCRIBE c")
    assert proxy.holding.wait(10)
    proxy.cut()
    assert _is_closed(client)


@pytest.mark.parametrize(
    "command", ["SELECT 0", "CLIENT SETNAME me", "AI.CONFIG MODEL_CHUNK_SIZE 1000000", "CLIENT REPLY SKIP"]
)
def test_a_command_comes_in_the_middle_of_a_message(
    command: str, client: Conversation, proxy: Proxy, door: FrontDoor, bare: redis.Redis
) -> None:
    """The rest of the message is not taken for its reply."""
    client.given("HELLO 3", "SUBSCRIBE c")
    proxy.hold_after(100_000)
    bare.publish("c", "m" * 200_000)
    assert proxy.holding.wait(10)
    client.send(command, "GET a", "ECHO b")
    for _ in range(2):
        assert exchange(door.port, b"QUIT\r\n", 5) == b"+OK\r\n"  # by then the server has read what came before
    proxy.release()
    assert client.reply() == f'["message", "c", "{"m" * 200_000}"]'
    expected = ['"b"'] if command.endswith("SKIP") else ["+OK", '"1"', '"b"']
    assert [client.reply() for _ in expected] == expected


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("behind", ["PING", "SUBSCRIBE d", "RESET"])
def test_a_reply_of_ours_waits_for_the_end_of_a_message(
    protocol: int, behind: str, client: Conversation, proxy: Proxy, door: FrontDoor, bare: redis.Redis
) -> None:
    """What Redis answers to the next command may come together with that end, and is second all the same."""
    client.given(f"HELLO {protocol}", "SUBSCRIBE c")
    proxy.hold_after(100_000)
    bare.publish("c", "m" * 200_000)
    assert proxy.holding.wait(10)
    client.send("AI.TENSORGET", behind)
    for _ in range(2):
        assert exchange(door.port, b"QUIT\r\n", 5) == b"+OK\r\n"  # by then the server has read what came before
    proxy.release()
    assert client.reply().startswith('["message", "c", "mmm')
    assert client.reply().startswith("-ERR")
    assert not client.reply().startswith("-ERR")


def test_messages_follow_each_other_without_a_pause(
    client: Conversation, proxy: Proxy, door: FrontDoor, bare: redis.Redis
) -> None:
    """What waits for the end of one goes on there, though the next one has begun."""
    client.given("HELLO 3", "SUBSCRIBE c")
    proxy.hold_after(100_000)
    for letter in "mno":
        bare.publish("c", letter * 200_000)
    assert proxy.holding.wait(10)
    client.send("AI.TENSORGET", "SELECT 1")
    for _ in range(2):
        assert exchange(door.port, b"QUIT\r\n", 5) == b"+OK\r\n"  # by then the server has read what came before
    proxy.hold_after(150_000)  # half of the second message
    proxy.release()
    assert client.reply() == f'["message", "c", "{"m" * 200_000}"]'
    assert matches(client.reply(), "-ERR wrong number of arguments...")
    assert proxy.holding.wait(10)
    while not any(entry["db"] == "1" for entry in bare.client_list()):
        pass  # SELECT has reached Redis
    proxy.release()
    assert [client.reply()[:19] for _ in range(2)] == ['["message", "c", "n', '["message", "c", "o']
    assert client.reply() == "+OK"


@pytest.mark.parametrize("first", ["PING", "MULTI", "AI.TENSORGET t VALUES", "AI.TENSORSET t UINT8 100000"])
def test_redis_has_no_room_for_another_client(
    first: str, client: Conversation, door: FrontDoor, bare: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so unasked: in its words a client that needs a connection of its own is refused, and closed."""
    limit = bare.config_get("maxclients")["maxclients"]
    client.given("AI.TENSORSET t FLOAT 1 2 VALUES 1 2")
    with talk(door.port) as new:
        bare.config_set("maxclients", len(bare.client_list()))
        try:
            new.send(first, "ECHO x")
            replies = [_reply_or_end(new) for _ in range(3)]
            # A large tensor of one who has a connection needs a further one.
            large = _reply_or_end(client, "AI.TENSORSET u UINT8 100000")
        finally:
            bare.config_set("maxclients", limit)
    assert large in (FULL, CLOSED)
    if first.startswith("AI.TENSORGET"):  # which the connection that all share can do
        assert replies == ['["1", "2"]', FULL, CLOSED]
    elif first.startswith("AI."):
        assert replies == [FULL, FULL, CLOSED] or replies[0] == CLOSED
    else:
        assert replies == [FULL, CLOSED, CLOSED]
    with talk(door.port) as new:
        new.given("PING", "AI.TENSORSET u UINT8 100000")
    assert not caplog.records


def test_with_a_password_no_room_is_no_way_in(client: Conversation, door: FrontDoor, bare: redis.Redis) -> None:
    """A password that was set after the connection that all share was opened."""
    limit = bare.config_get("maxclients")["maxclients"]
    bare.config_set("requirepass", "secret")
    bare.config_set("maxclients", len(bare.client_list()))
    try:
        with talk(door.port) as new:
            assert new.ask("AI.TENSORGET t VALUES") == FULL
    finally:
        bare.config_set("maxclients", limit)
        bare.config_set("requirepass", "")


def test_nothing_of_a_cut_transaction_is_done(client: Conversation, proxy: Proxy, bare: redis.Redis) -> None:
    client.given("MULTI", "SET x 1", "AI.TENSORSET y FLOAT 1")
    proxy.cut()
    assert _is_closed(client)
    assert bare.exists("x", "y") == 0


@pytest.mark.parametrize("first", ["MULTI", "SELECT 1", "AUTH default nothing", "HELLO 3", "RESET"])
def test_what_depends_on_a_lost_command(first: str, client: Conversation, proxy: Proxy, bare: redis.Redis) -> None:
    """What a pipeline has behind it is not carried out one by one, or in another database."""
    proxy.hold()
    client.send(first, "SET x 1", "AI.TENSORSET y FLOAT 1", "EXEC")
    assert proxy.holding.wait(20)
    proxy.cut()
    assert _reply_or_end(client) == CLOSED
    assert bare.exists("x", "y") == 0


def test_a_command_that_could_not_be_queued(front_door: FrontDoor, bare: redis.Redis) -> None:
    """Redis knows nothing of it; all the same, nothing of its transaction is done."""
    bare.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", "~*", "+@all")
    try:
        with talk(front_door.port) as client:
            client.given("AUTH u p", "MULTI", "SET x 1")
            bare.execute_command("ACL", "SETUSER", "u", "resetpass", ">q")  # no further connection of this user opens
            assert matches(client.ask("AI.TENSORSET y FLOAT 1"), "-WRONGPASS...")
            assert client.ask("EXEC") == "-EXECABORT Transaction discarded because of previous errors."
            assert bare.exists("x", "y") == 0
    finally:
        bare.execute_command("ACL", "DELUSER", "u")


def test_redis_is_busy_when_it_is_asked_for_scripts(door: FrontDoor, bare: redis.Redis) -> None:
    """That is not taken for a refusal: once Redis has time, tensors are checked and written in one step."""

    def keep_busy() -> None:
        with pytest.raises(redis.ResponseError, match="Script killed"):
            bare.eval("while true do end", 0)

    limit = bare.config_get("lua-time-limit")
    bare.config_set("lua-time-limit", 10)
    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        with redis.Redis(port=bare.connection_pool.connection_kwargs["port"]) as other, talk(door.port) as client:
            while not matches(client.ask("GET a"), "-BUSY..."):
                threading.Event().wait(0.01)
            assert matches(client.ask("AI.TENSORSET t FLOAT 1"), "-BUSY...")
            other.script_kill()
            busy.join(10)
            before = bare.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
            client.given("AI.TENSORSET t FLOAT 1")
            assert bare.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    finally:
        bare.config_set("lua-time-limit", limit["lua-time-limit"])


def test_a_run_whose_redis_is_lost(client: Conversation, proxy: Proxy, door: FrontDoor) -> None:
    run = "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 v"
    dag = "AI.DAGEXECUTE LOAD 1 t PERSIST 1 w |> AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 w |> AI.TENSORGET w VALUES"
    client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", run)
    for command, good in ((run, "+OK"), (dag, '[+OK, ["2", "4"]]')):
        with talk(door.port) as other:
            other.given("AI.TENSORGET t")
            proxy.hold()
            other.send(command)
            assert proxy.holding.wait(20)
            proxy.cut()
            assert _reply_or_end(other) == CLOSED
        with talk(door.port) as other:
            assert other.ask(command) == good


@pytest.mark.parametrize("command", [RUN, f"AI.DAGEXECUTE LOAD 1 t PERSIST 1 u |> {RUN}"], ids=["model", "dag"])
def test_a_run_whose_outputs_are_lost_counts(command: str, client: Conversation, proxy: Proxy, door: FrontDoor) -> None:
    client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", *[command] * 3, "AI.INFO m RESETSTAT")
    proxy.hold()
    client.send(command)
    assert proxy.holding.wait(10)
    proxy.cut()
    assert _reply_or_end(client) == CLOSED
    with talk(door.port) as other:
        assert other.ask("AI.INFO m").endswith('"samples", :1, "calls", :1, "errors", :0]')


@pytest.mark.parametrize("sent", [0, 3 * MEGABYTE])
def test_cut_while_a_tensor_streams_through(
    sent: int, client: Conversation, proxy: Proxy, door: FrontDoor, bare: redis.Redis
) -> None:
    size = 8 * MEGABYTE
    head = request_bytes(f"AI.TENSORSET big UINT8 {size} BLOB x", {})
    head = head[: -len(b"$1\r\nx\r\n")] + b"$%d\r\n" % size
    client.socket.sendall(head + bytes(sent))
    with talk(door.port) as other:  # by its reply the server has read what was sent
        other.given("PING")
    proxy.cut()
    with contextlib.suppress(ConnectionError):
        client.socket.sendall(bytes(size - sent) + b"\r\n")
    reply = _reply_or_end(client)
    assert reply == CLOSED or (reply == "+OK" and not sent)
    with talk(door.port) as other:
        assert other.ask("AI.TENSORGET t VALUES") == '["1", "2"]'
    names = set(bare.keys())
    assert names == ({b"t", b"a", b"big"} if reply == "+OK" else {b"t", b"a"})


def test_redis_out_of_reach(client: Conversation, proxy: Proxy) -> None:
    """What has not left waits for Redis, a while."""
    server = FrontDoor(Config(redis=proxy.url, port=0, drain_timeout_s=2, upstream_retry_ms=300))
    try:
        with contextlib.ExitStack() as open_ones:
            idle = [open_ones.enter_context(talk(server.port)) for _ in range(3)]
            for conversation in idle:
                conversation.given("PING", "AI.TENSORGET t")
            new = [open_ones.enter_context(talk(server.port)) for _ in range(3)]
            proxy.refuse(True)
            proxy.cut()
            _noticed(server)
            for command, *both in zip(("PING", "AI.TENSORGET t", "AI.TENSORSET t FLOAT 1"), idle, new, strict=True):
                assert [_reply_or_end(conversation, str(command)) for conversation in both] == [CLOSED, CLOSED]
        proxy.refuse(False)
        with talk(server.port) as conversation:
            assert conversation.ask("GET a") == '"1"'
            assert conversation.ask("AI.TENSORGET t VALUES") == '["1", "2"]'
    finally:
        server.stop()


def test_redis_is_killed_and_started_again(redis_server: RedisServer, tmp_path: Path) -> None:
    """Clients that wait for no reply meanwhile do not even notice."""
    commands = {
        "AI.TENSORGET t VALUES": '["1", "2"]',
        "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 v": "+OK",
        "AI.SCRIPTEXECUTE s norm INPUTS 1 t OUTPUTS 1 w": "+OK",
        "AI.DAGEXECUTE LOAD 1 t |> AI.TENSORGET t VALUES": '[["1", "2"]]',
        "AI.TENSORSET x FLOAT 1 VALUES 1": "+OK",
        "AI.TENSORSET y UINT8 100000": "+OK",
        "GET z": "nil",
        "SET z 1": "+OK",
    }
    own = RedisServer(redis_server.binary, tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    server = FrontDoor(Config(redis=own.url, port=0, upstream_retry_ms=20_000))
    try:
        with contextlib.ExitStack() as open_ones:
            clients = [open_ones.enter_context(talk(server.port)) for _ in commands]
            clients[0].given(
                "AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>",
                "AI.SCRIPTSTORE s CPU ENTRY_POINTS 1 norm SOURCE <script>",
                "AI.TENSORSET t FLOAT 1 2 VALUES 1 2",
                "AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u",
            )
            for conversation in clients:
                conversation.given("PING", "AI.TENSORGET t")
            own.stop()
            _noticed(server)
            for conversation, command in zip(clients, commands, strict=True):
                conversation.send(command)
            _noticed(server)
            own.start()
            for conversation, (command, expected) in zip(clients, commands.items(), strict=True):
                assert conversation.reply() == expected, command
    finally:
        server.stop()
        own.stop()


def test_shutdown_goes_to_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    own = RedisServer(redis_server.binary, tmp_path)
    server = FrontDoor(Config(redis=own.url, port=0, upstream_retry_ms=0))
    try:
        with talk(server.port) as client:
            client.given("AI.TENSORSET t FLOAT 1 VALUES 1")
            with talk(server.port) as other:
                other.send("PING", "SHUTDOWN NOSAVE", "PING")
                assert other.reply() == "+PONG"
                assert _is_closed(other)
            assert own.process is not None
            assert own.process.wait(20) == 0
            _noticed(server)
            assert _reply_or_end(client, "PING") == CLOSED
        own.start()
        with talk(server.port) as client:
            client.given("PING", "AI.TENSORSET t FLOAT 1 VALUES 1")
    finally:
        server.stop()
        own.stop()


def test_a_stalled_redis_holds_up_only_those_who_wait_for_it(client: Conversation, proxy: Proxy) -> None:
    proxy.hold()
    client.send("GET a", "AI.TENSORGET t VALUES")
    released = threading.Timer(0.3, proxy.release)
    released.start()
    try:
        assert [client.reply(), client.reply()] == ['"1"', '["1", "2"]']
    finally:
        released.join()
