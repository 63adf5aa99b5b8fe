"""AI.TENSORSET and AI.TENSORGET: requests, parsers, replies and rows.

RedisAI looks up the key's type before it checks any syntax except arity, so those errors carry that look-up
(`commands.checks`). In a DAG, keys are local names: errors carry no look-up, and arity texts have no `ERR `.
Source: AI.TENSORSET, AI.TENSORGET.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from redisai_py.bounded import BoundedCache
from redisai_py.commands._args import INT64_MAX, Argv, is_word, strict_integer, to_bytes
from redisai_py.commands.arguments import KEY, Argument, flag
from redisai_py.commands.checks import TensorExists, TensorOrAbsent
from redisai_py.commands.spec import READ, WRITE, CommandSpec
from redisai_py.commands.values import check_blob, parse_values
from redisai_py.errors import CommandError, WrongArity
from redisai_py.resp.replies import Reply, TensorReply, Values
from redisai_py.tensor import MAX_RANK, Buffer, DType, Tensor

__all__ = [
    "MAX_EMPTY_SIZE_BYTES",
    "ROWS",
    "Form",
    "TensorGet",
    "TensorSet",
    "parse_tensor_get",
    "parse_tensor_set",
    "tensor_reply",
]

MAX_EMPTY_SIZE_BYTES = 512 * 1024 * 1024
"""Maximum size of a tensor created without data. RedisAI allocates any shape immediately."""

_INVALID_DTYPE = "ERR invalid data type"
_INVALID_SHAPE = "ERR invalid or negative value found in tensor shape"
_BLOB_WORDS = "ERR a single binary string should come after the BLOB argument in 'AI.TENSORSET' command"
_VALUES_WORDS = "ERR wrong number of values was given in 'AI.TENSORSET' command"
_DAG_SET_ARITY = "wrong number of arguments for 'AI.TENSORSET' command"
_DAG_GET_ARITY = "wrong number of arguments for 'AI.TENSORGET' command"
_UNKNOWN_OPTION = "ERR unsupported data format"
_BOTH_FORMS = "ERR both BLOB and VALUES specified"


class Form(enum.Enum):
    """How AI.TENSORGET returns the elements."""

    NONE = b""
    BLOB = b"BLOB"
    VALUES = b"VALUES"

    __hash__ = object.__hash__


_BLOB, _VALUES, _NONE = Form.BLOB, Form.VALUES, Form.NONE  # an enum looks its members up with Python code, each time


@dataclass(frozen=True, slots=True)
class TensorSet:
    """Store a tensor under a key (in a DAG: under a local name)."""

    key: bytes
    tensor: Tensor

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Names that the operation reads in a DAG."""
        return ()

    @property
    def writes(self) -> tuple[bytes, ...]:
        """Names that the operation writes in a DAG."""
        return (self.key,)


@dataclass(frozen=True, slots=True)
class TensorGet:
    """Read a tensor. meta: include dtype and shape; a command without options means META BLOB."""

    key: bytes
    meta: bool
    form: Form

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Names that the operation reads in a DAG."""
        return (self.key,)

    @property
    def writes(self) -> tuple[bytes, ...]:
        """Names that the operation writes in a DAG."""
        return ()


# Words between the key and the blob -> (dtype, shape, bytes of data), for numeric types whose data needs no further
# check. Clients send few different ones, repeatedly.
_BLOB_HEADS: BoundedCache[tuple[Buffer, ...], tuple[DType, tuple[int, ...], int]] = BoundedCache(4096)
_LONGEST_BLOB_HEAD = 16
_UNCHECKED = frozenset(DType) - {DType.BOOL, DType.STRING}


def parse_tensor_set(argv: Argv, in_dag: bool = False) -> TensorSet:
    """`AI.TENSORSET key dtype [dim ...] [BLOB data | VALUES v ...]`.

    Raises: WrongArity, CommandError (with the look-up of the key).
    Copies: never a blob; VALUES are parsed into new data, and missing data is zeros.
    """
    if 4 < len(argv) <= _LONGEST_BLOB_HEAD:
        try:
            head = _BLOB_HEADS.get(tuple(argv[2:-1]))
        except (TypeError, ValueError):  # a writable buffer among the words is not hashable
            head = None
        if head is not None and len(argv[-1]) == head[2]:
            key = argv[1]
            return TensorSet(key if type(key) is bytes else bytes(key), Tensor(head[0], head[1], argv[-1]))
    if len(argv) < 4:
        raise CommandError(_DAG_SET_ARITY) if in_dag else WrongArity(bytes(argv[0]))
    key = to_bytes(argv[1])
    try:
        return TensorSet(key, _parse_tensor(argv))
    except CommandError as error:
        if not in_dag:
            error.checks = (TensorOrAbsent(key),)
        raise


def _parse_tensor(argv: Argv) -> Tensor:
    dtype = DType.from_wire(argv[2])
    if dtype is None:
        raise CommandError(_INVALID_DTYPE)
    dims: list[int] = []
    for position in range(3, len(argv)):
        word = argv[position]
        if is_word(word, b"BLOB"):
            return _blob_tensor(dtype, tuple(dims), argv, position + 1)
        if is_word(word, b"VALUES"):
            words = argv[position + 1 :]
            if len(words) != _count_elements(dims):
                raise CommandError(_VALUES_WORDS)
            return Tensor(dtype, tuple(dims), parse_values(dtype, words))
        dim = strict_integer(word)
        if dim is None or dim < 0 or len(dims) == MAX_RANK:
            raise CommandError(_INVALID_SHAPE)
        dims.append(dim)
    size_bytes = _count_elements(dims) * (dtype.itemsize or 1)
    if size_bytes > MAX_EMPTY_SIZE_BYTES:
        raise CommandError(_INVALID_SHAPE)
    return Tensor(dtype, tuple(dims), bytes(size_bytes))


def _blob_tensor(dtype: DType, shape: tuple[int, ...], argv: Argv, position: int) -> Tensor:
    if len(argv) - position != 1:
        raise CommandError(_BLOB_WORDS)
    data = argv[position]
    size = _count_elements(shape)
    check_blob(dtype, size, data)
    head: tuple[Buffer, ...] = tuple(argv[2:position])
    if dtype in _UNCHECKED and len(argv) <= _LONGEST_BLOB_HEAD and all(type(word) is bytes for word in head):
        _BLOB_HEADS.keep(head, (dtype, shape, len(data)))
    return Tensor(dtype, shape, data)


def _count_elements(dims: list[int] | tuple[int, ...]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    if size > INT64_MAX:
        raise CommandError(_INVALID_SHAPE)
    return size


_GET_OPTIONS: dict[tuple[Buffer, ...], tuple[bool, Form]] = {
    (b"META", b"BLOB"): (True, Form.BLOB),
    (b"META", b"VALUES"): (True, Form.VALUES),
    (b"META",): (True, Form.NONE),
    (b"BLOB",): (False, Form.BLOB),
    (b"VALUES",): (False, Form.VALUES),
    (): (True, Form.BLOB),
}


def parse_tensor_get(argv: Argv, in_dag: bool = False) -> TensorGet:
    """`AI.TENSORGET key [META] [BLOB | VALUES]`, options in any order.

    Raises: WrongArity, CommandError (with the look-up of the key).
    """
    if not 2 <= len(argv) <= 4:
        raise CommandError(_DAG_GET_ARITY) if in_dag else WrongArity(bytes(argv[0]))
    key = argv[1]
    if type(key) is not bytes:
        key = bytes(key)
    try:
        common = _GET_OPTIONS.get(tuple(argv[2:]))
    except (TypeError, ValueError):  # a writable buffer among the words is not hashable
        common = None
    if common is not None:
        return TensorGet(key, common[0], common[1])
    meta, form = False, Form.NONE
    for word in argv[2:]:
        if is_word(word, b"META"):
            meta = True
            continue
        chosen = Form.BLOB if is_word(word, b"BLOB") else Form.VALUES if is_word(word, b"VALUES") else None
        if chosen is None or form not in (Form.NONE, chosen):
            text = _UNKNOWN_OPTION if chosen is None else _BOTH_FORMS
            raise CommandError(text, () if in_dag else (TensorExists(key),))
        form = chosen
    return TensorGet(key, meta, form)


def tensor_reply(request: TensorGet, dtype: DType, shape: tuple[int, ...], data: Buffer) -> Reply:
    """AI.TENSORGET: dtype and shape if requested, then the data as one bulk string or as values.

    Args: data: the tensor's bytes; unused, and may be empty, without BLOB and VALUES.
    """
    form = request.form
    if form is _VALUES:
        return TensorReply(dtype, shape, request.meta, Values(dtype, shape, data))
    if form is _BLOB or not request.meta:
        return TensorReply(dtype, shape, request.meta or form is _NONE, data)
    return TensorReply(dtype, shape, True, None)


ROWS = (
    CommandSpec(
        name=b"AI.TENSORSET",
        request=(TensorSet,),
        parse=parse_tensor_set,
        arity=-4,
        flags=WRITE,
        in_dag=True,
        in_multi="takes part",
        arguments=(
            KEY,
            Argument("dtype", "string"),
            Argument("dim", "integer", optional=True, multiple=True),
            Argument(
                "data",
                "oneof",
                optional=True,
                arguments=(Argument("data", "string", "BLOB"), Argument("value", "string", "VALUES", multiple=True)),
            ),
        ),
        summary="Stores a tensor.",
        since="1.0.0",
        group="tensors",
        complexity="O(N) where N is the size of the tensor",
        examples=(
            ("AI.TENSORSET t FLOAT 2 2 VALUES 0.5 1 -2 3e1", "+OK"),
            ("AI.TENSORSET s FLOAT VALUES 5", "+OK"),
            ("AI.TENSORSET u UINT8 1 VALUES 256", "-ERR invalid value"),
        ),
    ),
    CommandSpec(
        name=b"AI.TENSORGET",
        request=(TensorGet,),
        parse=parse_tensor_get,
        arity=-2,
        flags=READ,
        in_dag=True,
        in_multi="takes part",
        arguments=(
            KEY,
            flag("META", optional=True),
            Argument("form", "oneof", optional=True, arguments=(flag("BLOB"), flag("VALUES"))),
        ),
        summary="Reads a tensor.",
        since="1.0.0",
        group="tensors",
        complexity="O(N) where N is the size of the tensor; O(1) with META only",
        examples=(
            ("AI.TENSORGET t META", '["dtype", "FLOAT", "shape", [:2, :2]]'),
            ("AI.TENSORGET t VALUES", '["0.5", "1", "-2", "30"]'),
            ("AI.TENSORGET absent", "-ERR tensor key is empty or in a different shard"),
        ),
    ),
)
