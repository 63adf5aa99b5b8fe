"""The documentation does what it says: its code runs against a real server, its links lead somewhere, its tables are
those of the program.

How a block is tested follows from its language:
- `redis`: a session of redis-cli; every reply shown must be the one that the server gives.
- `console`: shell commands after `$ `, and what they print, typed into a shell in a checkout. Its PATH lacks the
  virtual environment: the page itself has to say how to enter that.
- `python`: run in order, one process per page; what it prints must be the comments after `print(...)`. On a page that
  enters the virtual environment it is the `python` of that shell.
- `sh`: commands that are not run here; the verbs of make and the settings in them must exist.
- `toml`: settings of `redisai serve`.
- `text`: nothing to run.
Blocks of a page share one server, which is empty at the beginning; `6390` stands for its port, and in Python `6379` for
that of the Redis behind it.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import typer

from redisai_py.cli import app
from redisai_py.commands import COMMANDS
from redisai_py.config import Config, settings
from scripts import gen_settings
from tests.support import FrontDoor, RedisServer, free_port, has_redis_cli, plain_environment, redis_binaries

ROOT = Path(__file__).resolve().parent.parent
PORT = "6390"
REDIS_PORT = "6379"
PROMPT = f"127.0.0.1:{PORT}> "
LANGUAGES = {"redis", "console", "python", "sh", "toml", "text"}
# Written from the command table and checked by the tests of that table.
GENERATED = ROOT / "docs" / "commands"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHOWN = re.compile(r"^\s*print\(.*\)  # (.*)$", re.MULTILINE)
TIMING = re.compile(r"^\(\d+\.\d+s\)\n", re.MULTILINE)  # redis-cli's, below commands that took half a second
SLOW_PAGES = {"docs/backends/tensorflow.md", "docs/backends/tflite.md"}

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])
WITH_CODE = [page for page in PAGES if GENERATED not in page.parents and BLOCK.search(page.read_text())]

# Runs one file after another in one namespace, tells what each printed. Files, since torch reads its caller's source.
DRIVER = """
import contextlib, io, json, sys, traceback
namespace = {"__name__": "__main__"}
for line in sys.stdin:
    path = json.loads(line)
    printed, failure = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(open(path).read(), path, "exec"), namespace)
    except BaseException:
        failure = traceback.format_exc()
    print(json.dumps([printed.getvalue(), failure]), flush=True)
"""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)


@pytest.fixture(scope="module")
def stock_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    binaries = redis_binaries()
    if not binaries:
        pytest.skip("no redis-server")
    server = RedisServer(next(iter(binaries.values())), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def server(stock_redis: RedisServer) -> Iterator[FrontDoor]:
    with redis.Redis(port=stock_redis.port) as client:
        client.flushall()
        for user in client.acl_users():
            if user != "default":
                client.acl_deluser(user)
    front_door = FrontDoor(Config(redis=stock_redis.url, port=0, drain_timeout_s=5))
    yield front_door
    front_door.stop()


# What a line of a page may do to the shell, apart from running something.
ENTERING = (". ", "cd ", "export ")
# What a newcomer types after `make run`: they have to enter the virtual environment before they use it.
NEWCOMERS = {"README.md", "docs/quickstart.md", "docs/command-line.md"}


class Shell:
    """A plain shell in a checkout; it keeps what was entered."""

    def __init__(self, checkout: Path, url: str) -> None:
        self.checkout = checkout
        self.environment = {**plain_environment(), "REDISAI_URL": url, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.entered: list[str] = []

    def argv(self, line: str) -> list[str]:
        return ["bash", "-c", "\n".join([*self.entered, line])]

    def type(self, line: str) -> str:
        done = subprocess.run(
            self.argv(line), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, cwd=self.checkout,
            env=self.environment,
        )  # fmt: skip
        if line.startswith(ENTERING):
            self.entered.append(line)
        return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The source as it is, with the environment of the tests as its `.venv`."""
    directory = tmp_path / "redisai_py"
    directory.mkdir()
    for path in ROOT.iterdir():
        if path.name != ".venv":
            (directory / path.name).symlink_to(path)
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


class Python:
    """The process that runs a page's Python, started with its first block."""

    def __init__(self, directory: Path, shell: Shell) -> None:
        self._directory = directory
        self._shell = shell
        self._count = 0
        self._process: subprocess.Popen[str] | None = None

    def run(self, code: str) -> str:
        if self._process is None:
            # Where a page enters no environment, that of the tests; then the source need not be installed.
            path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
            entered = bool(self._shell.entered)
            argv = [*self._shell.argv('exec python -c "$0"'), DRIVER] if entered else [sys.executable, "-c", DRIVER]
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
                env=self._shell.environment | ({} if entered else {"PYTHONPATH": path}),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        path = self._directory / f"block{self._count}.py"
        path.write_text(code)
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        printed, failure = json.loads(self._process.stdout.readline())
        assert not failure, failure
        return str(printed)

    def close(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.communicate()


def _comparable(replies: str) -> str:
    """What redis-cli shows, without what differs from run to run and from one Redis to the next."""
    return re.sub(r"\(error\) NOPERM .*", "(error) NOPERM", TIMING.sub("", replies)).rstrip()


class Page:
    """What is needed to run the blocks of one page."""

    def __init__(self, port: int, redis_port: int, python: Python, shell: Shell) -> None:
        self.shell = shell
        self.port = str(port)
        self.redis_port = str(redis_port)
        self.python = python

    def redis(self, text: str) -> None:
        if not has_redis_cli():
            pytest.skip("no redis-cli")
        commands, replies = [], []
        for line in text.splitlines(keepends=True):
            (commands if line.startswith(PROMPT) else replies).append(line.removeprefix(PROMPT))
        argv = ["redis-cli", "--no-raw", "-p", self.port]
        shown = subprocess.run(argv, input="".join(commands), capture_output=True, text=True, timeout=60, check=True)
        assert _comparable(shown.stdout) == _comparable("".join(replies))

    def console(self, text: str) -> None:
        if "redis-cli" in text and not has_redis_cli():
            pytest.skip("no redis-cli")
        for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, expected = command.partition("\n")
            line = line.replace(PORT, self.port)
            assert self.shell.type(line).rstrip() == expected.rstrip(), line

    def run_python(self, text: str) -> None:
        ports = {PORT: self.port, REDIS_PORT: self.redis_port}
        code = re.sub(r"\d+", lambda number: ports.get(number[0], number[0]), text)
        printed = self.python.run(code).splitlines()
        shown = SHOWN.findall(text)
        lines = iter(printed)  # frameworks may print more
        assert all(line in lines for line in shown), f"printed {printed}, not {shown}"


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if name_of(page) in SLOW_PAGES else ()) for page in WITH_CODE],
    ids=name_of,
)
@pytest.mark.timeout(120)
def test_code_of_a_page_does_what_the_page_says(
    page: Path, tmp_path: Path, checkout: Path, request: pytest.FixtureRequest
) -> None:
    blocks = [block for block in blocks_of(page) if block.language in ("redis", "console", "python")]
    if not blocks:
        return
    server, stock_redis = (request.getfixturevalue(name) for name in ("server", "stock_redis"))
    shell = Shell(checkout, f"redis://127.0.0.1:{server.port}")
    python = Python(tmp_path, shell)
    runner = Page(server.port, stock_redis.port, python, shell)
    run = {"redis": runner.redis, "console": runner.console, "python": runner.run_python}
    try:
        for block in blocks:
            try:
                run[block.language](block.text)
            except AssertionError as error:
                raise AssertionError(f"{name_of(page)}, line {block.line}: {error}") from None
        assert shell.entered or name_of(page) not in NEWCOMERS
    finally:
        python.close()


def _typed_into_python(shell: Shell, blocks: list[Block], port: str) -> None:
    """Line by line, as into the prompt of `python`."""
    text = "".join(f"{block.text}\n" for block in blocks if block.language == "python").replace(PORT, port)
    typed = subprocess.run(
        shell.argv("python -q -i"), input=text, capture_output=True, text=True, timeout=100, cwd=shell.checkout,
        env=shell.environment,
    )  # fmt: skip
    assert "Traceback" not in typed.stderr, typed.stderr
    lines = iter(typed.stdout.splitlines())
    assert all(line in lines for line in SHOWN.findall(text)), typed.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_newcomer_types_the_pages_into_a_plain_shell_of_a_fresh_clone(tmp_path: Path) -> None:
    """`make run` installs, serves and says what to type; then every line of the three pages, as it stands."""
    clone, port = tmp_path / "redisai_py", free_port()
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", clone], check=True, timeout=100)
    serving = subprocess.Popen(
        ["make", "run", f"PORT={port}"], cwd=clone, env=plain_environment(), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        greeting = list(itertools.takewhile(lambda line: "Ctrl-C" not in line, serving.stdout))
        suggested = "\n".join(line.strip() for line in greeting if line.startswith("    "))
        assert ". .venv/bin/activate" in suggested, greeting
        tried = Shell(clone, f"redis://127.0.0.1:{port}").type(suggested)
        assert "PONG" in tried, tried
        assert "FLOAT" in tried, tried
        for name in sorted(NEWCOMERS):
            shell = Shell(clone, f"redis://127.0.0.1:{port}")
            blocks = list(blocks_of(ROOT / name))
            with redis.Redis(port=port) as client:
                client.flushall()
            runner = Page(port, 0, Python(tmp_path, shell), shell)
            for block in blocks:
                if block.language in ("redis", "console"):
                    (runner.redis if block.language == "redis" else runner.console)(block.text)
            _typed_into_python(shell, blocks, str(port))
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.communicate(timeout=60)


# Ways to use each AI command, on keys `k:...`; MODEL, SCRIPT and ZEROS stand for data.
USES: dict[str, tuple[str, ...]] = {
    "AI.TENSORGET": ("AI.TENSORGET k:x BLOB", "AI.TENSORGET k:large BLOB", "AI.TENSORGET k:none BLOB"),
    "AI.TENSORSET": (
        "AI.TENSORSET k:t FLOAT 1 VALUES 1",
        "AI.TENSORSET k:t UINT8 99999",
        "AI.TENSORSET k:t UINT8 2000000 BLOB ZEROS",
    ),
    "AI.MODELEXECUTE": ("AI.MODELEXECUTE k:m INPUTS 1 k:x OUTPUTS 1 k:y",),
    "AI.MODELRUN": ("AI.MODELRUN k:m INPUTS k:x OUTPUTS k:y",),
    "AI.MODELSTORE": ("AI.MODELSTORE k:m2 ONNX CPU BLOB MODEL",),
    "AI.MODELSET": ("AI.MODELSET k:m2 ONNX CPU BLOB MODEL",),
    "AI.MODELGET": ("AI.MODELGET k:m", "AI.MODELGET k:none"),
    "AI.MODELDEL": ("AI.MODELDEL k:m",),
    "AI._MODELSCAN": ("AI._MODELSCAN",),
    "AI.SCRIPTSTORE": ("AI.SCRIPTSTORE k:s2 CPU ENTRY_POINTS 1 f SOURCE SCRIPT",),
    "AI.SCRIPTSET": ("AI.SCRIPTSET k:s2 CPU SOURCE SCRIPT",),
    "AI.SCRIPTGET": ("AI.SCRIPTGET k:s",),
    "AI.SCRIPTDEL": ("AI.SCRIPTDEL k:s",),
    "AI._SCRIPTSCAN": ("AI._SCRIPTSCAN",),
    "AI.SCRIPTEXECUTE": ("AI.SCRIPTEXECUTE k:s f INPUTS 1 k:x OUTPUTS 1 k:y",),
    "AI.SCRIPTRUN": ("AI.SCRIPTRUN k:s f INPUTS k:x OUTPUTS k:y",),
    "AI.DAGEXECUTE": (
        "AI.DAGEXECUTE LOAD 1 k:x PERSIST 1 k:y |> AI.MODELEXECUTE k:m INPUTS 1 k:x OUTPUTS 1 k:y",
        "AI.DAGEXECUTE LOAD 1 k:x PERSIST 1 k:y IFUNCHANGED |> AI.MODELEXECUTE k:m INPUTS 1 k:x OUTPUTS 1 k:y",
        "AI.DAGEXECUTE LOAD 1 k:x PERSIST 1 k:y EX 60 |> AI.SCRIPTEXECUTE k:s f INPUTS 1 k:x OUTPUTS 1 k:y",
    ),
    "AI.DAGRUN": ("AI.DAGRUN LOAD 1 k:x PERSIST 1 k:y |> AI.MODELRUN k:m INPUTS k:x OUTPUTS k:y",),
    "AI.DAGEXECUTE_RO": ("AI.DAGEXECUTE_RO LOAD 1 k:x |> AI.MODELEXECUTE k:m INPUTS 1 k:x OUTPUTS 1 k:y",),
    "AI.DAGRUN_RO": ("AI.DAGRUN_RO LOAD 1 k:x |> AI.SCRIPTRUN k:s f INPUTS k:x OUTPUTS k:y",),
    "AI.CACHE": (
        "AI.CACHE SET k:m TTL 60 MINRUN 0",
        "AI.CACHE GET k:m",
        "AI.CACHE STATS k:m",
        "AI.CACHE WARM k:m INPUTS 1 k:x",
        "AI.CACHE PURGE k:m",
        "AI.CACHE DEL k:m",
    ),
    "AI.INFO": ("AI.INFO k:m", "AI.INFO k:m FULL"),
    "AI.CONFIG": ("AI.CONFIG GET MODEL_CHUNK_SIZE", "AI.CONFIG MODEL_CHUNK_SIZE 535822336"),
}
NEEDED = (
    "AI.MODELSTORE k:m ONNX CPU BLOB MODEL",
    "AI.SCRIPTSTORE k:s CPU ENTRY_POINTS 1 f SOURCE SCRIPT",
    "AI.TENSORSET k:x FLOAT 1 2",
    "AI.TENSORSET k:large UINT8 99999",
)
DATA: dict[str, str | bytes] = {
    "MODEL": (ROOT / "examples" / "mul.onnx").read_bytes(),
    "SCRIPT": "def f(tensors: List[Tensor], keys: List[str], args: List[str]):\n    return tensors[0]\n",
    "ZEROS": bytes(2_000_000),
}


def send(client: redis.Redis, command: str) -> None:
    """Send a command; an error of an operation in its reply is raised, that of the key that is missing is not."""
    try:
        reply = client.execute_command(*(DATA.get(word, word) for word in command.split()))
    except redis.ResponseError as error:
        if "k:none" not in command or "key is empty" not in str(error):
            raise
        return
    for item in reply if isinstance(reply, list) else ():
        if isinstance(item, Exception):
            raise item


def rights() -> dict[str, set[str]]:
    """AI command -> the rules that its user needs, from the table in docs/security.md."""
    table: dict[str, set[str]] = {}
    section = (ROOT / "docs" / "security.md").read_text().split("## What each command needs")[1].split("\n- ")[0]
    for line in section.splitlines():
        names, _, rest = line.removeprefix("| ").partition(" | ")
        if names.startswith("`AI."):
            needs = rest.rpartition(" | ")[0].replace("\\|", "|")
            rules = {word for part in re.findall(r"`([^`]*)`", needs) for word in part.split() if word[0] == "+"}
            if "those of `AI.TENSORSET`" in needs:
                rules |= table["AI.TENSORSET"]
            table |= dict.fromkeys(re.findall(r"`([^`]*)`", names), rules)
    return table


def test_the_table_of_rights_has_every_command() -> None:
    assert rights().keys() == {name.decode() for name in COMMANDS} == USES.keys()


def test_each_row_of_what_users_can_reach_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text().partition("## What one user can reach of others")[2]
    rows = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert named, row
        assert all((ROOT / name).is_file() for name in named), row


@pytest.mark.timeout(60)
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no onnxruntime")
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no torch")
def test_a_user_with_the_rights_of_the_table_can_use_the_command(server: FrontDoor) -> None:
    with redis.Redis(port=server.port) as admin:
        if int(admin.info("server")["redis_version"].partition(".")[0]) < 7:
            pytest.skip("rules on subcommands need Redis 7")
        for name, rules in rights().items():
            for use in USES[name]:
                for command in NEEDED:
                    send(admin, command)
                keys = ("~k:*", "~ai:pred:*")
                admin.execute_command("ACL", "SETUSER", "someone", "reset", "on", ">p", *keys, *sorted(rules))
                with redis.Redis(port=server.port, username="someone", password="p") as client:
                    # The second and third time may take other ways: values are near, connections are open.
                    for _ in range(1 if name.endswith("DEL") else 3):
                        send(client, use)


def test_a_user_without_a_right_of_the_table_is_refused(server: FrontDoor) -> None:
    with redis.Redis(port=server.port) as admin:
        send(admin, "AI.TENSORSET k:x FLOAT 1 2")
        admin.execute_command("ACL", "SETUSER", "someone", "reset", "on", ">p", "~k:*", "+@all", "-set", "-getrange")
    with redis.Redis(port=server.port, username="someone", password="p") as client:
        for command in ("AI.TENSORGET k:x", "AI.TENSORSET k:x FLOAT 1"):
            with pytest.raises(redis.ResponseError):
                send(client, command)


def test_the_table_of_settings_is_that_of_the_program() -> None:
    assert gen_settings.page(gen_settings.PAGE.read_text()) == gen_settings.PAGE.read_text(), "make docs"


def test_log_lines_that_the_operations_page_names_exist() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "redisai_py").rglob("*.py")))
    logs = gen_settings.PAGE.read_text().partition("## Logs")[2].partition("## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", logs, re.MULTILINE)
    named = re.findall(r"`([^`]*)`", " ".join(rows))
    assert len(named) > 5
    assert not [name for name in named if f'"{name}' not in sources]


def test_settings_without_effect_are_named_as_such() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "redisai_py").rglob("*.py")))
    idle = {setting.flag for setting in settings() if not re.search(rf"\.{setting.name}\b", sources)}
    assert set(re.findall(r"`(--[a-z-]+)` has no effect", gen_settings.PAGE.read_text())) == idle


def test_a_client_can_copy_everything_from_one_server_to_another(server: FrontDoor, tmp_path: Path) -> None:
    """The code in docs/moving-from-redisai.md; a server of ours stands in for RedisAI, whose TYPE is spelt out here."""
    page = ROOT / "docs" / "moving-from-redisai.md"
    (code,) = [block.text for block in blocks_of(page) if block.language == "python"]
    names: dict[str, Any] = {}
    exec(code, names)

    class RedisAI(redis.Redis):
        def type(self, name: bytes) -> bytes:
            words = self.execute_command("HGET", name, "kind") if super().type(name) == b"hash" else b"TENSOR"
            return {b"MODEL": b"AI__MODEL", b"SCRIPT": b"AI_SCRIPT", b"TENSOR": b"AI_TENSOR"}[words]

    with RedisAI(port=server.port) as old, redis.Redis(port=server.port, db=1) as new:
        for command in NEEDED:
            send(old, command)
        send(old, "AI.SCRIPTSET k:old CPU TAG t SOURCE SCRIPT")
        old.pexpire("k:x", 100_000)
        assert names["copy"](old, new) == len(NEEDED) + 1
        for command in ("AI.TENSORGET k:x", "AI.MODELGET k:m", "AI.SCRIPTGET k:s", "AI.SCRIPTGET k:old"):
            assert new.execute_command(*command.split()) == old.execute_command(*command.split())
        assert 0 < new.pttl("k:x") <= 100_000
        assert new.pttl("k:m") == -1


def test_every_block_says_how_it_is_tested() -> None:
    odd = [
        f"{name_of(page)}:{block.line}: {block.language or 'no language'}"
        for page in WITH_CODE
        for block in blocks_of(page)
        if block.language not in LANGUAGES
    ]
    assert not odd


def test_every_relative_link_leads_to_a_file() -> None:
    dead = []
    for page in PAGES:
        for target in LINK.findall(BLOCK.sub("", page.read_text())):
            path = target.partition("#")[0]
            if path and "://" not in target and not target.startswith("mailto:") and not (page.parent / path).exists():
                dead.append(f"{name_of(page)}: {target}")
    assert not dead


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_to_a_section_leads_to_one() -> None:
    dead = []
    for page in PAGES:
        for target in LINK.findall(BLOCK.sub("", page.read_text())):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            if anchor and "://" not in target and found.suffix == ".md" and anchor not in anchors_of(found):
                dead.append(f"{name_of(page)}: {target}")
    assert not dead


def test_verbs_of_make_that_are_mentioned_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    mentioned = {
        (name_of(page), verb)
        for page in PAGES
        for code in re.findall(r"`([^`\n]+)`|^ {4}(make .*)$|^(make .*)$", page.read_text(), re.MULTILINE)
        for part in code
        for verb in re.findall(r"^make ([a-z-]+)", part)
    }
    assert {verb for _, verb in mentioned} >= {"run", "test", "demo", "ensemble"}
    assert not {(page, verb) for page, verb in mentioned if verb not in verbs}


def test_flags_of_the_server_that_are_mentioned_exist() -> None:
    known = {setting.flag for setting in settings()} | {"--config", "--help", "--version"}
    known |= {f"--no-{setting.flag[2:]}" for setting in settings() if setting.type == "bool"}
    unknown = [
        f"{name_of(page)}: {flag}"
        for page in PAGES
        for command in re.findall(r"redisai serve([^`\n#|]*)", page.read_text())
        for flag in re.findall(r"--[a-z][a-z-]*", command)
        if flag not in known
    ]
    assert not unknown


def test_commands_of_the_program_that_are_mentioned_exist_with_their_options() -> None:
    program: Any = typer.main.get_command(app)
    unknown, count = [], 0
    for page in PAGES:
        for line in re.findall(r"(?:^|[$`] ?)redisai ((?!serve)[a-z][^`\n#|&>]*)", page.read_text(), re.MULTILINE):
            command, words = program, shlex.split(line.replace("...", ""))
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            ours = words[: words.index("--")] if "--" in words else words  # what follows is another program's
            flags = [word for word in ours if re.match(r"--?[a-z]", word)]
            count += 1
            if (hasattr(command, "commands") and words) or not options.issuperset(flags):
                unknown.append(f"{name_of(page)}: redisai {line}")
    assert count > 20
    assert not unknown


def section_of(page: str, heading: str) -> str:
    """A section of a page, without its heading."""
    return (ROOT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("command", ["AI.TENSORSET", "AI.MODELEXECUTE"])
def test_the_architecture_leads_from_bytes_to_reply_in_a_few_files(command: str) -> None:
    section = section_of("ARCHITECTURE.md", f"{command}, from bytes to reply")
    files = {target for target in LINK.findall(section) if target.endswith(".py")}
    assert {"redisai_py/frontdoor/connection.py", "redisai_py/upstream/shared.py"} < files
    assert len(files) <= 8


def test_the_architecture_names_every_room() -> None:
    tour = section_of("ARCHITECTURE.md", "The tour")
    rooms = {path.parent.name for path in (ROOT / "redisai_py").glob("*/__init__.py")}
    assert not {room for room in rooms if f"redisai_py/{room})" not in tour}


def test_the_glossary_is_short_and_sorted() -> None:
    _, _, *words = re.findall(r"^\| ([^|]+) \|", section_of("ARCHITECTURE.md", "Glossary"), re.MULTILINE)
    assert 10 < len(words) <= 30
    assert words == sorted(words, key=str.lower)


def links_of(page: Path) -> Iterator[Path]:
    """The pages that a page links to; a link to a directory leads to all pages in it."""
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        path = target.partition("#")[0]
        if path and "://" not in target:
            found = (page.parent / path).resolve()
            yield from found.glob("*.md") if found.is_dir() else [found]


def test_every_page_is_two_clicks_away() -> None:
    starts = {ROOT / "README.md", ROOT / "docs" / "index.md"}
    first = {page for start in starts for page in links_of(start)}
    second = {page for start in first if start.suffix == ".md" for page in links_of(start)}
    lost = [name_of(page) for page in PAGES if page not in starts | first | second]
    assert not lost, "link them from README.md or docs/index.md"


def test_decisions_have_numbers_of_their_own() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(set(numbers)) == len(numbers), "two decisions have one number"
    assert not [page.name for page in pages if not page.read_text().startswith(f"# {page.name[:4]}: ")]


def test_decisions_that_are_mentioned_exist() -> None:
    known = {page.name[:4] for page in (ROOT / "docs" / "adr").glob("*.md")}
    sources = [*PAGES, *(path for room in ("redisai_py", "backends") for path in (ROOT / room).rglob("*.py"))]
    mentioned = {
        (name_of(path), number)
        for path in sources
        for number in re.findall(r"(?:ADRs? |docs/adr/|\]\(adr/)(\d{4})", path.read_text())
    }
    assert mentioned
    assert not {(name, number) for name, number in mentioned if number not in known}


def test_settings_files_that_are_shown_are_valid() -> None:
    for page in WITH_CODE:
        for block in blocks_of(page):
            if block.language == "toml":
                values = tomllib.loads(block.text)
                assert values.keys() <= {setting.name for setting in settings()}, name_of(page)


def test_redis_cli_is_there_where_it_can_be() -> None:
    if shutil.which("redis-server"):
        assert has_redis_cli(), "redis-server comes with redis-cli; without it the sessions are not tested"
