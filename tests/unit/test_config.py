from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from redisai_py.cli.settings import SettingsError, load
from redisai_py.config import Config, settings
from redisai_py.setting import device_threads
from redisai_py.urls import masked_url


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("REDISAI_"):
            monkeypatch.delenv(name)


def test_flag_wins_over_environment_wins_over_file_wins_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "redisai.toml"
    file.write_text("port = 1003\nqueue_limit = 3\nbacklog = 33\n")
    monkeypatch.setenv("REDISAI_PORT", "1002")
    monkeypatch.setenv("REDISAI_QUEUE_LIMIT", "2")
    config = load({"port": "1001"}, file)
    assert (config.port, config.queue_limit, config.backlog) == (1001, 2, 33)
    assert config.max_clients == Config().max_clients


def test_nothing_given_is_the_defaults() -> None:
    assert load({}, None) == Config()


def test_every_setting_is_read_from_its_variable_and_its_line_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {
        "host": "127.0.0.2,-::1",
        "unix_socket_perm": "770",
        "unix_socket": "/tmp/redisai.sock",
        "require_password": "true",
        "redis": "redis://elsewhere:1",
        "data_dir": "elsewhere",
        "redis_server": "valkey-server",
        "appendfsync": "always",
        "isolation": "all",
        "log_level": "debug",
        "log_format": "json",
        "http_host": "127.0.0.3",
        "protected_mode": "false",
        "preload": "a,b",
        "device_threads": "GPU:0=1,cpu=3",
    }
    for setting in settings():
        if setting.name == "redis_password_file":  # is read at once, see below
            continue
        text = other.get(setting.name, str((setting.minimum or 0) + 1))
        words = tuple(text.split(",")) if isinstance(setting.default, tuple) else None
        shown = (
            text
            if (text.isdigit() and setting.type == "int") or text in ("false", "true")
            else json.dumps(words or text)
        )
        file = tmp_path / f"{setting.name}.toml"
        file.write_text(f"{setting.name} = {shown}\n")
        from_file = load({}, file)
        with monkeypatch.context() as environment:
            environment.setenv(f"REDISAI_{setting.name.upper()}", text)
            from_environment = load({}, None)
        assert from_file == from_environment != Config(), setting.name
        assert from_file == load({setting.name: words or text}, None)


@pytest.mark.parametrize(
    ("text", "count"), [("64MiB", 64 * 1024**2), ("1gib", 1024**3), ("1MB", 10**6), ("70000", 70000)]
)
def test_sizes_may_have_units(text: str, count: int) -> None:
    assert load({"near_cache_bytes": text}, None).near_cache_bytes == count


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": "65536"}, ["port", "65536", "65535"]),
        ({"port": "http"}, ["port", "http"]),
        ({"max_clients": "0"}, ["max_clients", "at least 1"]),
        ({"model_execution_timeout_ms": "999"}, ["model_execution_timeout_ms", "at least 1000", "0: no limit"]),
        ({"log_level": "loud"}, ["log_level", "loud", "debug"]),
        ({"near_cache_bytes": "many"}, ["near_cache_bytes", "many"]),
        ({"redis": "http://host"}, ["redis://", "http://host"]),
        ({"redis": "redis://host/3"}, ["SELECT"]),
        ({"redis": "redis://host?db=3"}, ["SELECT"]),
        ({"redis": "unix:///r.sock?password=x"}, ["unix:///r.sock", "USER:PASSWORD@"]),
        ({"redis": "redis://host:http"}, ["redis://host:http", "URL"]),
        ({"redis": "unix://"}, ["unix:///PATH"]),
    ],
)
def test_a_value_that_cannot_be_used_is_named_on_one_line(flags: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags, None)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_password_never_shows_in_an_error() -> None:
    with pytest.raises(SettingsError, match=r"\*\*\*@host/3") as caught:
        load({"redis": "redis://me:se@cret@host/3"}, None)
    assert "cret" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        load({"redis": "unix:///r.sock?password=secret"}, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1", "redis://host:1"),
        ("redis://:pw@host:1/0", "redis://:***@host:1/0"),
        ("rediss://me:pw@host", "rediss://me:***@host"),
        ("unix:///tmp/a.sock", "unix:///tmp/a.sock"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown


@pytest.mark.parametrize("url", ["redis://host", "redis://host:6380/0", "rediss://u:p@host/", "unix:///tmp/r.sock"])
def test_urls_that_are_accepted(url: str) -> None:
    assert Config(redis=url).redis == url


@pytest.mark.parametrize("text", ["127.0.0.1 -::1", "127.0.0.1,-::1", "127.0.0.1, -::1"])
def test_addresses_may_stand_in_one_word(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load({"host": [text]}, None).host == ("127.0.0.1", "-::1")
    monkeypatch.setenv("REDISAI_HOST", text)
    assert load({}, None).host == ("127.0.0.1", "-::1")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"host": [""]}, ["host", "unix_socket"]),
        ({"host": ["-"]}, ["host", "'-'"]),
        ({"unix_socket_perm": "888"}, ["unix_socket_perm", "octal"]),
        ({"unix_socket_perm": "7777"}, ["unix_socket_perm", "octal"]),
        ({"require_password": True, "redis": "redis://h"}, ["require_password", "private Redis"]),
        ({"redis_password_file": "/f"}, ["redis_password_file", "--redis"]),
        ({"redis_password_file": "/f", "redis": "redis://:p@h"}, ["redis_password_file", "***"]),
        ({"redis_password_file": "/none", "redis": "redis://h"}, ["redis_password_file", "/none"]),
        ({"model_chunk_size": "65535"}, ["model_chunk_size", "65536"]),
    ],
)
def test_settings_that_contradict_each_other(flags: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags, None)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://host:1", "redis://:p%40%2F%20w@host:1"),
        ("rediss://me@host", "rediss://me:p%40%2F%20w@host"),
        ("unix:///tmp/r.sock", "unix://:p%40%2F%20w@/tmp/r.sock"),
    ],
)
def test_the_password_may_be_in_a_file(tmp_path: Path, url: str, whole: str) -> None:
    file = tmp_path / "password"
    file.write_text("p@/ w\nnot this\n")
    assert load({"redis": url, "redis_password_file": str(file)}, None).redis == whole
    file.write_text("\n")
    with pytest.raises(SettingsError, match="no password in its first line"):
        load({"redis": url, "redis_password_file": str(file)}, None)


def test_zero_is_allowed_where_it_means_something() -> None:
    zeros = {setting.name: 0 for setting in settings() if setting.zero}
    assert {"port", "model_execution_timeout_ms", "near_cache_bytes", "auto_batch"} <= zeros.keys()
    Config(**zeros)


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "redisai.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="'prot', which is not a setting"):
        load({}, file)
    file.write_text("port =\n")
    with pytest.raises(SettingsError, match=r"cannot read .*redisai\.toml"):
        load({}, file)
    with pytest.raises(SettingsError, match=r"cannot read .*missing\.toml"):
        load({}, tmp_path / "missing.toml")


@pytest.mark.parametrize("name", ["port", "near_cache_bytes"])
def test_a_truth_is_no_number(tmp_path: Path, name: str) -> None:
    file = tmp_path / "redisai.toml"
    file.write_text(f"{name} = true\n")
    with pytest.raises(SettingsError, match=f"{name} is True: Input should be a number"):
        load({}, file)


def test_json_round_trip() -> None:
    config = Config(
        port=0, data_dir=Path("/a/b"), preload=("x", "y"), device_threads=("CPU=3",), redis="redis://:p@h:1",
        protected_mode=False, host=("::1", "-127.0.0.1"), unix_socket=Path("/s"),
    )  # fmt: skip
    assert Config.from_json(config.to_json()) == config
    assert "\n" not in config.to_json()


def test_automatic_values_are_resolved() -> None:
    resolved = Config().resolved()
    assert 2 <= resolved.threads_per_queue <= 5
    assert resolved.loaded_models_limit_bytes > 1024**2
    assert resolved.maxmemory_clients > 1024**2
    given = Config(threads_per_queue=7, loaded_models_limit_bytes=5, maxmemory_clients=1024**2).resolved()
    assert (given.threads_per_queue, given.loaded_models_limit_bytes, given.maxmemory_clients) == (7, 5, 1024**2)


def test_devices_may_have_threads_of_their_own() -> None:
    assert device_threads(Config(device_threads=("gpu:0=1", "CPU=8")).device_threads) == {"GPU:0": 1, "CPU": 8}
    for word in ("GPU:0", "GPU:0=0", "GPU:0=x", "TPU=1", "CPU:123456=1", "=1", "CPU=1025", "CPU=-1"):
        with pytest.raises(ValueError, match="but must be DEVICE=N"):
            Config(device_threads=(word,))


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("columns", ["80", "160"])
def test_help_names_every_flag(columns: str) -> None:
    command = [sys.executable, "-m", "redisai_py", "serve", "--help"]
    page = subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=True, env={**os.environ, "COLUMNS": columns}
    ).stdout
    assert [setting.flag for setting in settings() if f"{setting.flag} " not in page] == []
    assert "--no-protected-mode" in page
    assert "…" not in page, "something is cut off"
    for group in {setting.group for setting in settings()}:
        assert f"─ {group} ─" in page
