"""Sources of settings: flag, else environment variable, else file, else default.

Names, types and help texts come from `redisai_py.config`; this module only reads values. An invalid value raises a
`SettingsError` whose text names the setting.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, ByteSize, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from redisai_py.config import Config, settings, words
from redisai_py.setting import Setting
from redisai_py.urls import masked_url

__all__ = ["SettingsError", "load"]


class SettingsError(Exception):
    """A setting has an invalid value, or the file cannot be read; the text is one line."""


def load(flags: Mapping[str, Any], file: Path | None) -> Config:
    """Load the settings.

    Args:    flags: by setting name, only those given.   file: TOML with setting names as keys.
    Raises:  SettingsError.
    """
    reader = _reader(file)
    try:
        if file is not None:
            file.open("rb").close()  # pydantic-settings ignores a missing file
        values = reader(**{name: _words(value) for name, value in flags.items()}).model_dump()
    except ValidationError as error:
        raise SettingsError("; ".join(map(_explain, error.errors()))) from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {file}: {error}") from error
    try:
        config = Config(**{**values, **words(values)})
        _check_passwords(config)
        return _with_password(config)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _check_passwords(config: Config) -> None:
    if config.require_password and config.redis is not None:
        raise ValueError(
            "require_password is for the private Redis only: set a password in the Redis of --redis itself"
        )
    if config.redis_password_file is None:
        return
    if config.redis is None:
        raise ValueError("redis_password_file needs --redis")
    if urlsplit(config.redis).password is not None:
        raise ValueError(
            f"redis is {masked_url(config.redis)!r}, with a password, and redis_password_file names another"
        )


def _with_password(config: Config) -> Config:
    """The settings, with the password of `redis_password_file` moved into the URL."""
    file = config.redis_password_file
    if file is None or config.redis is None:
        return config
    try:
        password = file.expanduser().read_text().partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read redis_password_file {file}: {error}") from error
    if not password:
        raise SettingsError(f"redis_password_file {file} has no password in its first line")
    scheme, _, rest = config.redis.partition("://")
    user, at, place = rest.rpartition("@")
    url = f"{scheme}://{user}:{quote(password, safe='')}@{place if at else rest}"
    return replace(config, redis=url, redis_password_file=None)


def _words(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _explain(error: Any) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"the file has {name!r}, which is not a setting"
    return f"{name} is {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"


def _reader(file: Path | None) -> type[BaseSettings]:
    """A class that reads all sources, including `file`, with the types of `Config`."""

    class Sources(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="REDISAI_", extra="forbid", toml_file=file)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources = (init_settings, env_settings)
            return (*sources, TomlConfigSettingsSource(settings_cls)) if file is not None else sources

    fields: dict[str, Any] = {setting.name: (_type(setting), setting.default) for setting in settings()}
    return create_model("Settings", __base__=Sources, **fields)


@functools.cache
def _types() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def _type(setting: Setting) -> Any:
    if setting.type == "int":
        number = ByteSize if setting.name.endswith("_bytes") else int  # accepts 64MiB and 67108864
        return typing.Annotated[number, BeforeValidator(_no_bool)]
    if setting.name == "host":
        return typing.Annotated[list[str], NoDecode, BeforeValidator(_addresses)]
    if _types()[setting.name] == tuple[str, ...]:
        # In a variable, commas separate the values; pydantic-settings would expect JSON.
        return typing.Annotated[list[str], NoDecode, BeforeValidator(_split)]
    return _types()[setting.name]


def _addresses(value: Any) -> Any:
    """Split values that contain several addresses, as a line of redis.conf may: `--host "127.0.0.1 -::1"`."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    return [word for text in texts for word in text.replace(",", " ").split()]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # bool is a subclass of int
        raise ValueError("Input should be a number")
    return value


def _split(value: Any) -> Any:
    return [word for word in value.split(",") if word] if isinstance(value, str) else value
