"""parse(encode(x)) == x, and parsers that answer every list of words with a request or a CommandError."""

import math
from contextlib import suppress

import hiredis
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.commands import COMMANDS, encode, parse
from redisai_py.commands._args import double, strict_integer
from redisai_py.commands.admin import ConfigGet, ConfigSet, Info, LoadBackend
from redisai_py.commands.dags import Dag
from redisai_py.commands.models import ModelDel, ModelExecute, ModelGet, ModelScan, ModelStore
from redisai_py.commands.scripts import ScriptDel, ScriptExecute, ScriptGet, ScriptScan, ScriptStore
from redisai_py.commands.tensors import Form, TensorGet, TensorSet
from redisai_py.commands.values import parse_values
from redisai_py.errors import CommandError
from redisai_py.resp_reply import Double, Values, encode_reply
from redisai_py.tensor import Device, DType, Tensor

KEYWORDS = {b"INPUTS", b"OUTPUTS", b"TIMEOUT", b"$", b"|>"}


def is_key(word):
    return word.upper() not in KEYWORDS


keys = st.binary(min_size=1, max_size=8).filter(is_key)
# `|>` as an argument of a DAG is the separator, whoever sends it.
key_lists = st.lists(keys, min_size=1, max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda name: is_key(name.encode()) and name.upper() != "BLOB"
)
name_lists = st.lists(names, min_size=1, max_size=3).map(tuple)
tags = st.binary(max_size=5)
timeouts = st.none() | st.integers(1, 2**63 - 1)
shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
devices = st.sampled_from(["CPU", "cpu:1", "GPU", "Gpu:12"]).map(lambda text: Device.parse(text.encode()))


@st.composite
def tensors(draw):
    dtype, shape = draw(st.sampled_from(list(DType))), draw(shapes)
    size = math.prod(shape)
    if dtype is DType.STRING:
        element = st.binary(max_size=4).map(lambda word: word.replace(b"\0", b""))
        elements = draw(st.lists(element, min_size=size, max_size=size))
        return Tensor(dtype, shape, b"".join(element + b"\0" for element in elements))
    if dtype is DType.BOOL:
        return Tensor(dtype, shape, bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))))
    data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize).filter(lambda d: d != b"|>"))
    return Tensor(dtype, shape, draw(st.sampled_from([bytes, bytearray, memoryview]))(data))


tensor_sets = st.builds(TensorSet, keys, tensors())
tensor_gets = st.sampled_from(
    [(True, Form.NONE), (True, Form.BLOB), (True, Form.VALUES), (False, Form.BLOB), (False, Form.VALUES)]
).flatmap(lambda options: st.builds(TensorGet, keys, st.just(options[0]), st.just(options[1])))


@st.composite
def model_stores(draw):
    backend, deprecated = draw(st.sampled_from(["TF", "TFLITE", "TORCH", "ONNX"])), draw(st.booleans())
    batchsize = 0 if backend == "TFLITE" and deprecated else draw(st.integers(0, 9))
    minbatchsize = draw(st.integers(0, 9)) if batchsize else 0
    timeout = draw(st.integers(0, 9)) if minbatchsize else 0
    inputs, outputs = (draw(name_lists), draw(name_lists)) if backend == "TF" else ((), ())
    chunks = tuple(draw(st.lists(st.binary(max_size=9), min_size=1, max_size=3)))
    batching = (batchsize, minbatchsize, timeout)
    return ModelStore(draw(keys), backend, draw(devices), chunks, draw(tags), *batching, inputs, outputs, deprecated)


@st.composite
def script_stores(draw):
    deprecated = draw(st.booleans())
    entry_points = () if deprecated else draw(st.just(()) | name_lists)
    source = draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
    return ScriptStore(draw(keys), draw(devices), entry_points, source, draw(tags), deprecated)


model_executes = st.builds(ModelExecute, keys, key_lists, key_lists, timeouts, st.just(False))
model_runs = st.builds(ModelExecute, keys, key_lists, key_lists, timeouts, st.just(True))
some_keys = st.just(()) | key_lists
script_executes = st.builds(ScriptExecute, keys, names, some_keys, some_keys, some_keys, some_keys, timeouts)
script_runs = st.builds(
    ScriptExecute, keys, names, st.just(()), some_keys, st.just(()), some_keys, timeouts, st.just(True)
)
gets = st.sampled_from([(True, True), (True, False), (False, True)])
plain_requests = st.one_of(
    tensor_sets,
    tensor_gets,
    model_stores(),
    st.builds(lambda key, options: ModelGet(key, *options), keys, gets),
    st.builds(ModelDel, keys),
    st.just(ModelScan()),
    model_executes,
    model_runs,
    script_stores(),
    st.builds(lambda key, options: ScriptGet(key, *options), keys, gets),
    st.builds(ScriptDel, keys),
    st.just(ScriptScan()),
    script_executes,
    script_runs,
    st.sampled_from([(False, False), (True, False), (False, True)]).flatmap(
        lambda options: st.builds(Info, keys, st.just(options[0]), st.just(options[1]))
    ),
    st.builds(ConfigGet, names.map(str.upper)),
    st.builds(ConfigSet, st.just("BACKENDSPATH"), names),
    st.builds(ConfigSet, st.just("MODEL_CHUNK_SIZE"), st.integers(1, 2**63 - 1)),
    st.builds(LoadBackend, st.sampled_from(["TF", "ONNX"]), names),
)


@st.composite
def dags(draw):
    deprecated, readonly = draw(st.booleans()), draw(st.booleans())
    known = set(load := draw(some_keys))
    ops = []
    for _ in range(draw(st.integers(1, 4))):
        kinds = [draw(tensor_sets)]
        if known:
            known_lists = st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3).map(tuple)
            kinds.append(TensorGet(draw(st.sampled_from(sorted(known))), True, Form.VALUES))
            kinds.append(ModelExecute(draw(keys), draw(known_lists), draw(key_lists), None, deprecated))
            if deprecated or not readonly:
                lists = [draw(some_keys) if not deprecated else () for _ in range(2)]
                reads, writes = draw(known_lists), draw(some_keys)
                kinds.append(
                    ScriptExecute(draw(keys), draw(names), lists[0], reads, lists[1], writes, None, deprecated)
                )
        ops.append(draw(st.sampled_from(kinds)))
        known.update(ops[-1].writes)
    persist = () if readonly else tuple(sorted(draw(st.sets(st.sampled_from(sorted(known)), max_size=3))))
    routing = draw(st.none() | keys) if deprecated or load or persist else draw(keys)
    expiry = draw(st.sampled_from([(None, False), (60, False), (None, True)])) if persist else (None, False)
    unchanged = bool(load and persist) and draw(st.booleans())
    return Dag(tuple(ops), load, persist, routing, draw(timeouts), readonly, deprecated, *expiry, unchanged)


@given(plain_requests)
def test_parse_is_the_reverse_of_encode(request):
    assert parse(encode(request)) == request


@given(dags())
def test_parse_is_the_reverse_of_encode_for_dags(dag):
    assert parse(encode(dag)) == dag


@given(plain_requests)
def test_names_in_any_case_and_words_in_any_buffer(request):
    name, *words = encode(request)
    assert parse([name.lower(), *map(bytearray, words)]) == request
    assert parse([name.title(), *map(memoryview, words)]) == request


vocabulary = st.sampled_from(
    b"INPUTS OUTPUTS KEYS ARGS TIMEOUT LOAD PERSIST ROUTING EX KEEPTTL IFUNCHANGED |> $ BLOB VALUES META TAG BATCHSIZE "
    b"MINBATCHSIZE MINBATCHTIMEOUT ENTRY_POINTS SOURCE FLOAT STRING BOOL INT8 TF ONNX CPU GPU:1 GET 0 1 2 3 -1 1.5 a b "
    b"AI.TENSORSET AI.TENSORGET AI.MODELEXECUTE AI.MODELRUN AI.SCRIPTEXECUTE AI.SCRIPTRUN 99999999999999999999".split()
) | st.binary(max_size=4)


@given(st.sampled_from(sorted(COMMANDS)), st.lists(vocabulary, max_size=14))
def test_any_words_make_a_request_or_a_command_error(name, words):
    argv = [name, *words]
    try:
        request = parse(argv)
    except CommandError as error:
        encode_reply(error, 2)
    else:
        assert type(request) in COMMANDS[name].request
        if all(word != b"|>" for word in words):
            assert parse(encode(request)) == request
    with suppress(CommandError):
        assert all(type(key) is bytes for key in COMMANDS[name].keys(argv))


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_doubles_survive_both_ways(numbers):
    words = [repr(number).encode() for number in numbers]
    data = parse_values(DType.DOUBLE, words)
    assert np.array_equal(np.frombuffer(data), np.array(numbers))
    reader = hiredis.Reader()
    for segment in encode_reply(Values(DType.DOUBLE, (len(numbers),), data), 2):
        reader.feed(segment)
    assert [float(text) for text in reader.gets()] == numbers


@given(st.text("0123456789+-.eExXpPinfaINFA _\t", max_size=9).map(str.encode))
def test_values_agree_with_the_grammar_of_one_word(word):
    expected = double(word)
    try:
        (value,) = np.frombuffer(parse_values(DType.DOUBLE, [word]))
    except CommandError:
        value = None
    assert value == expected
    integer = strict_integer(word)
    try:
        (value,) = np.frombuffer(parse_values(DType.INT64, [word]), "<i8")
    except CommandError:
        value = None
    assert value == integer


@given(st.lists(st.sampled_from([b"0", b"00", b"-0", b"1", b"-1", b"10", b"", b"01", b" ", b"1 "]), min_size=1))
def test_lists_of_integers_agree_with_the_grammar_of_one_word(words):
    expected = [strict_integer(word) for word in words]
    try:
        values = np.frombuffer(parse_values(DType.INT64, words), "<i8").tolist()
    except CommandError:
        assert None in expected
    else:
        assert values == expected


@given(st.lists(st.floats(width=32), min_size=1), st.sampled_from([2, 3]))
def test_values_print_as_single_doubles_do(numbers, protocol):
    data = np.array(numbers, "<f4").tobytes()
    singles = b"".join(b"".join(encode_reply(Double(number), protocol)) for number in numbers)
    whole = b"".join(encode_reply(Values(DType.FLOAT, (len(numbers),), data), protocol))
    assert whole == b"*%d\r\n" % len(numbers) + singles
