import pytest

from redisai_py.commands.admin import ConfigGet, ConfigSet, Info, LoadBackend
from redisai_py.errors import CommandError
from tests.parsing import parse


def words(text):
    return text.encode().split()


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("AI.INFO k", Info(b"k")),
        ("AI.INFO k WHATEVER", Info(b"k")),
        ("AI.INFO k resetstat", Info(b"k", reset=True)),
        ("AI.INFO k Full", Info(b"k", full=True)),
        ("AI.CONFIG get model_chunk_size ignored", ConfigGet("MODEL_CHUNK_SIZE")),
        ("AI.CONFIG GET nothing", ConfigGet("NOTHING")),
        ("AI.CONFIG BACKENDSPATH /x", ConfigSet("BACKENDSPATH", "/x")),
        ("AI.CONFIG model_chunk_size 65536 ignored", ConfigSet("MODEL_CHUNK_SIZE", 65536)),
        ("AI.CONFIG LOADBACKEND torch p ignored", LoadBackend("TORCH", "p")),
    ],
)
def test_requests(text, request_):
    assert parse(words(text)) == request_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AI.INFO", "ERR wrong number of arguments for 'ai.info' command"),
        ("AI.INFO a b c", "ERR wrong number of arguments for 'ai.info' command"),
        ("AI.CONFIG", "ERR wrong number of arguments for 'ai.config' command"),
        ("AI.CONFIG GET", "ERR wrong number of arguments for 'ai.config' command"),
        ("AI.CONFIG LOADBACKEND TF", "ERR wrong number of arguments for 'ai.config' command"),
        ("AI.CONFIG LOADBACKEND NOPE path", "ERR unsupported backend"),
        ("AI.CONFIG BACKENDSPATH", "ERR BACKENDSPATH: missing path argument"),
        ("AI.CONFIG MODEL_CHUNK_SIZE", "ERR MODEL_CHUNK_SIZE: missing chunk size"),
        ("AI.CONFIG MODEL_CHUNK_SIZE 0", "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        ("AI.CONFIG MODEL_CHUNK_SIZE 5.0", "ERR MODEL_CHUNK_SIZE: invalid chunk size"),
        (
            "AI.CONFIG MODEL_CHUNK_SIZE 65535",
            "ERR MODEL_CHUNK_SIZE: 65535 is less than the smallest chunk size, 65536",
        ),
        ("AI.CONFIG SET MODEL_CHUNK_SIZE 5", "ERR unsupported subcommand"),
    ],
)
def test_errors(text, message):
    with pytest.raises(CommandError) as caught:
        parse(words(text))
    assert str(caught.value) == message
