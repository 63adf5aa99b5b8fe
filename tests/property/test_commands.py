"""What the clients send parses to what was meant, and every list of words to a request or a CommandError."""

import math
import warnings
from contextlib import suppress

import numpy as np
import redis
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.client import calls
from redisai_py.client.graph import DagBuilder
from redisai_py.commands import COMMANDS
from redisai_py.commands._args import double, strict_integer
from redisai_py.commands.admin import ConfigGet, ConfigSet, Info, LoadBackend
from redisai_py.commands.dags import Dag
from redisai_py.commands.model_runs import ModelExecute
from redisai_py.commands.models import ModelDel, ModelGet, ModelScan, ModelStore
from redisai_py.commands.script_runs import ScriptExecute
from redisai_py.commands.scripts import ScriptDel, ScriptGet, ScriptScan, ScriptStore
from redisai_py.commands.tensors import Form, TensorGet, TensorSet
from redisai_py.commands.values import parse_values
from redisai_py.errors import CommandError
from redisai_py.resp.replies import Double, Values, encode_reply
from redisai_py.tensor import Device, DType, Tensor
from tests.parsing import parse
from tests.wire import read_back

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


# Every strategy below draws a request beside the client's call that means it.


ENCODER = redis.Connection().encoder


def sent(call):
    """The words of a call as they leave the client."""
    return [ENCODER.encode(word) for word in call.argv]


def quietly(method, *args, **options):
    """A call without the warning that a deprecated or experimental one gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method(*args, **options)


@st.composite
def tensor_sets(draw):
    key, tensor = draw(keys), draw(tensors())
    return TensorSet(key, tensor), calls.tensorset(key, tensor.numpy())


@st.composite
def tensor_gets(draw):
    key, form = draw(keys), draw(st.sampled_from(Form))
    return TensorGet(key, True, form), calls.tensorget(key, form is Form.BLOB, meta_only=form is Form.NONE)


@st.composite
def model_stores(draw):
    key, device, tag = draw(keys), draw(devices), draw(tags)
    backend, deprecated = draw(st.sampled_from(["TF", "TFLITE", "TORCH", "ONNX"])), draw(st.booleans())
    batch = None if backend == "TFLITE" and deprecated else draw(st.none() | st.integers(1, 9))
    minbatch = draw(st.none() | st.integers(1, 9)) if batch else None
    timeout = draw(st.none() | st.integers(0, 9)) if minbatch and not deprecated else None
    nodes = {"inputs": draw(name_lists), "outputs": draw(name_lists)} if backend == "TF" else {}
    blob = draw(st.binary(max_size=9))
    options = {"batch": batch, "minbatch": minbatch, "tag": tag, **nodes}
    if deprecated:
        call = quietly(calls.modelset, key, backend, device.text, blob, **options)
    else:
        call = calls.modelstore(key, backend, device.text, blob, minbatchtimeout=timeout, **options)
    batching = (batch or 0, minbatch or 0, timeout or 0)
    return ModelStore(key, backend, device, (blob,), tag, *batching, **nodes), call


@st.composite
def script_stores(draw):
    key, device, tag = draw(keys), draw(devices), draw(st.binary(min_size=1, max_size=5))
    source = draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
    if draw(st.booleans()):
        return ScriptStore(key, device, (), source, tag), quietly(calls.scriptset, key, device.text, source, tag)
    entry_points = draw(name_lists)
    call = calls.scriptstore(key, device.text, source, entry_points, tag)
    return ScriptStore(key, device, entry_points, source, tag), call


some_keys = st.just(()) | key_lists


@st.composite
def model_runs(draw):
    key, inputs, outputs = draw(keys), draw(key_lists), draw(key_lists)
    if draw(st.booleans()):
        return ModelExecute(key, inputs, outputs), quietly(calls.modelrun, key, inputs, outputs)
    timeout = draw(timeouts)
    return ModelExecute(key, inputs, outputs, timeout), calls.modelexecute(key, inputs, outputs, timeout)


@st.composite
def script_runs(draw):
    key, function, inputs, outputs = draw(keys), draw(names), draw(some_keys), draw(some_keys)
    if draw(st.booleans()):
        call = quietly(calls.scriptrun, key, function, inputs, outputs)
        return ScriptExecute(key, function, (), inputs, (), outputs), call
    declared, args, timeout = draw(key_lists), draw(some_keys), draw(timeouts)
    call = calls.scriptexecute(key, function, declared, inputs, args, outputs, timeout)
    return ScriptExecute(key, function, declared, inputs, args, outputs, timeout), call


chunk_sizes = st.integers(65536, 2**63 - 1)
meant_and_sent = st.one_of(
    tensor_sets(),
    tensor_gets(),
    model_stores(),
    script_stores(),
    model_runs(),
    script_runs(),
    st.builds(lambda key, meta: (ModelGet(key, True, not meta), calls.modelget(key, meta)), keys, st.booleans()),
    st.builds(lambda key, meta: (ScriptGet(key, True, not meta), calls.scriptget(key, meta)), keys, st.booleans()),
    st.builds(lambda key: (ModelDel(key), calls.modeldel(key)), keys),
    st.builds(lambda key: (ScriptDel(key), calls.scriptdel(key)), keys),
    st.builds(lambda: (ModelScan(), quietly(calls.modelscan))),
    st.builds(lambda: (ScriptScan(), quietly(calls.scriptscan))),
    st.builds(lambda key: (Info(key), calls.infoget(key)), keys),
    st.builds(lambda key: (Info(key, reset=True), calls.inforeset(key)), keys),
    st.builds(lambda name: (ConfigGet(name), calls.config(name)), names.map(str.upper)),
    st.builds(lambda path: (ConfigSet("BACKENDSPATH", path), calls.config("BACKENDSPATH", path)), names),
    st.builds(lambda n: (ConfigSet("MODEL_CHUNK_SIZE", n), calls.config("MODEL_CHUNK_SIZE", n)), chunk_sizes),
    st.builds(
        lambda name, path: (LoadBackend(name, path), calls.loadbackend(name, path)),
        st.sampled_from(["TF", "ONNX"]),
        names,
    ),
)


@st.composite
def dags(draw):
    readonly, load = draw(st.booleans()), draw(some_keys)
    options = {"load": load or None}
    if load:
        options["timeout"] = draw(timeouts)
        options["routing"] = draw(st.none() | keys)
    deprecated = not load
    if load and not readonly:
        options["persist"] = draw(st.none() | st.sets(st.sampled_from(sorted(load)), min_size=1).map(tuple))
    if options.get("persist"):
        options |= draw(st.sampled_from([{}, {"ex": 60}, {"keepttl": True}])) | {"ifunchanged": draw(st.booleans())}
    builder = quietly(DagBuilder, readonly=readonly, **options)
    ops, known = [], set(load)
    for _ in range(draw(st.integers(1, 4))):
        ops.append(draw(operations(builder, sorted(known), deprecated, readonly)))
        known.update(ops[-1].writes)
    expiry = (options.get("ex"), options.get("keepttl", False), options.get("ifunchanged", False))
    named = (load, options.get("persist") or (), options.get("routing"), options.get("timeout"))
    return Dag(tuple(ops), *named, *expiry), builder.call()


@st.composite
def operations(draw, builder, known, deprecated, readonly):
    """One more operation of a DAG, which the builder appends."""
    kinds = [
        "set",
        *(["get", "model"] if known else []),
        *(["script"] if known and not (deprecated or readonly) else []),
    ]
    kind, key = draw(st.sampled_from(kinds)), draw(keys)
    if kind == "set":
        tensor = draw(tensors())
        builder.tensorset(key, tensor.numpy())
        return TensorSet(key, tensor)
    if kind == "get":
        name = draw(st.sampled_from(known))
        builder.tensorget(name, as_numpy=False)
        return TensorGet(name, True, Form.VALUES)
    reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3).map(tuple))
    if kind == "model":
        writes = draw(key_lists)
        quietly(builder.modelrun, key, reads, writes)
        return ModelExecute(key, reads, writes)
    function, args, writes = draw(names), draw(some_keys), draw(some_keys)
    declared = draw(some_keys)  # KEYS takes one or more: None leaves the word out
    builder.scriptexecute(key, function, declared or None, reads, args, writes)
    return ScriptExecute(key, function, declared, reads, args, writes)


@given(meant_and_sent)
def test_the_server_parses_what_the_client_means(pair):
    request, call = pair
    assert parse(sent(call)) == request


@given(dags())
def test_the_server_parses_the_dag_that_the_client_means(pair):
    dag, call = pair
    assert parse(sent(call)) == dag


@given(meant_and_sent)
def test_names_in_any_case_and_words_in_any_buffer(pair):
    request, call = pair
    name, *words = sent(call)
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
    with suppress(CommandError):
        assert all(type(key) is bytes for key in COMMANDS[name].keys(argv))


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_doubles_survive_both_ways(numbers):
    words = [repr(number).encode() for number in numbers]
    data = parse_values(DType.DOUBLE, words)
    assert np.array_equal(np.frombuffer(data), np.array(numbers))
    texts = read_back(*encode_reply(Values(DType.DOUBLE, (len(numbers),), data), 2))
    assert [float(text) for text in texts] == numbers


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
