"""The prediction cache's pure parts: what is found by what, and when."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisai_py.errors import WrongType
from redisai_py.model import Model
from redisai_py.predictions.budget import Budget
from redisai_py.predictions.circuit_breaker import CircuitBreaker
from redisai_py.predictions.cost_benefit import CostBenefit
from redisai_py.predictions.declared import Declared
from redisai_py.predictions.entries import decode_entry, encode_entry, output_names
from redisai_py.predictions.frequent import Frequent
from redisai_py.predictions.identity import Names, inputs_digest, is_sampled, model_part, rows_of
from redisai_py.predictions.local import MOST_AGE_S, LocalCache
from redisai_py.predictions.rule import Rule, decode_rule
from redisai_py.predictions.shared_inputs import SharedInputs
from redisai_py.store.codec import decode_tensor
from redisai_py.tensor import Device, DType, Tensor

MODEL = Model(
    id="1", backend="ONNX", device=Device("CPU", None, "CPU"), tag=b"", batchsize=0, minbatchsize=0,
    minbatchtimeout_ms=0, inputs=("a",), outputs=("x", "y"), sha256="0" * 64,
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(list(DType)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = math.prod(shape)
    if dtype is DType.STRING:
        words = draw(st.lists(st.binary(max_size=3).map(lambda w: w.replace(b"\0", b"")), min_size=size, max_size=size))
        return Tensor(dtype, shape, b"".join(word + b"\0" for word in words))
    count = size * dtype.itemsize
    return Tensor(dtype, shape, draw(st.binary(min_size=count, max_size=count)))


several = st.lists(tensors(), min_size=1, max_size=3)


@given(several, several)
def test_only_equal_inputs_have_one_digest(one, other):
    assert (inputs_digest(one) == inputs_digest(other)) == (one == other)


def test_equal_bytes_of_another_kind_have_another_digest():
    data = bytes(8)
    kinds = [
        [Tensor(DType.FLOAT, (2,), data)],
        [Tensor(DType.INT32, (2,), data)],
        [Tensor(DType.FLOAT, (1, 2), data)],
        [Tensor(DType.FLOAT, (2, 1), data)],
        [Tensor(DType.DOUBLE, (1,), data)],
        [Tensor(DType.FLOAT, (1,), data[:4]), Tensor(DType.FLOAT, (1,), data[4:])],
        [Tensor(DType.STRING, (8,), data)],
        [Tensor(DType.STRING, (2, 4), data)],
    ]
    assert len({inputs_digest(kind) for kind in kinds}) == len(kinds)


def test_each_part_of_a_model_that_decides_changes_the_key():
    others = [
        replace(MODEL, sha256="1" * 64),
        replace(MODEL, backend="TORCH"),
        replace(MODEL, device=Device("GPU", None, "GPU")),
        replace(MODEL, outputs=("y", "x")),
        replace(MODEL, inputs=("b",)),
        replace(MODEL, signature="other"),
    ]
    digest = inputs_digest([Tensor(DType.FLOAT, (1,), bytes(4))])
    parts = [model_part(MODEL, "1.0"), model_part(MODEL, "1.1"), *(model_part(model, "1.0") for model in others)]
    keys = {Names(part).key(digest) for part in parts} | {Names(parts[0], user).key(digest) for user in (b"a", b"b")}
    assert len(keys) == len(parts) + 2
    same = replace(MODEL, id="2", tag=b"v2", device=Device("CPU", 1, "cpu:1"), batchsize=8)
    assert model_part(same, "1.0") == parts[0]


def test_a_user_s_name_stays_within_its_place():
    names = Names(b"x" * 32, b"a:*?[b]\\")
    assert names.prefix.startswith(b"ai:pred:user:a%3A%2A%3F%5Bb%5D%5C:")
    assert names.pattern == names.prefix + b"*"


@given(several)
def test_an_entry_is_read_as_it_was_written(outputs):
    names = output_names([f"o{i}" for i in range(len(outputs))])
    key = b"ai:pred:x:" + b"a" * 64
    value = b"".join(encode_entry(key, names, outputs))
    assert decode_entry(key, value, names) == outputs
    assert len(value) - sum(len(output.data) for output in outputs) & 63 == 0
    if len(outputs) == 1:
        assert decode_tensor(value) == outputs[0]
    for other in (key[:-1] + b"b",):
        with pytest.raises(WrongType):
            decode_entry(other, value, names)
    with pytest.raises(WrongType):
        decode_entry(key, value, (*names, "more"))


@given(several, st.data())
def test_a_damaged_entry_is_none_or_says_so(outputs, data):
    names = output_names([""] * len(outputs))
    key = b"ai:pred:x:" + b"a" * 64
    value = bytearray(b"".join(encode_entry(key, names, outputs)))
    header = 8 + int.from_bytes(value[:8], "little")
    at = data.draw(st.integers(0, header - 1))
    value[at] = data.draw(st.integers(0, 255))
    for damaged in (bytes(value), bytes(value[: data.draw(st.integers(0, len(value) - 1))])):
        with contextlib.suppress(WrongType):
            assert len(decode_entry(key, damaged, names)) == len(outputs)


def test_an_entry_unlike_what_the_model_declares_is_none_unless_a_run_gave_the_like():
    def output(shape: tuple[int, ...], dtype: DType = DType.FLOAT) -> list[Tensor]:
        return [Tensor(dtype, shape, bytes(math.prod(shape) * dtype.itemsize))]

    declared = Declared([(DType.FLOAT, (None, 3))])
    assert declared.admits(output((1, 3)))
    assert declared.admits(output((7, 3)))
    for wrong in (output((1, 4)), output((3,)), output((1, 3, 1)), output((1, 3), DType.INT32), [], output((1, 3)) * 2):
        assert not declared.admits(wrong)
    declared.gave(output((1, 4)))
    assert declared.admits(output((1, 4)))
    assert not declared.admits(output((2, 4)))
    assert Declared([(None, None)]).admits(output((5,), DType.INT8))


def test_a_rule_is_what_set_would_write():
    rule = Rule(60, jitter=50, rows=True, maxbytes=7, warm=3, per_user=True, minrun_us=0)
    assert decode_rule(rule.encode()) == rule
    assert [rule.life_s(chance) for chance in (0, 0.5, 0.999)] == [60, 45, 30]
    for value in (b"", b"{}", b"[]", b'{"ttl_s":0}', b'{"ttl_s":true}', b'{"ttl_s":5,"x":1}', b"\xff", b"9" * 600):
        assert decode_rule(value) is None


def test_it_stands_aside_where_look_ups_do_not_pay_and_comes_back():
    figures = CostBenefit()
    figures.ran(0.005)
    for _ in range(600):
        figures.looked(0.0003, False)
    assert figures.aside
    assert "hit rate 0.00" in figures.reason
    for _ in range(128):
        figures.looked(0.0003, True)
    assert not figures.aside
    tiny = CostBenefit()
    tiny.ran(0.00001)
    for _ in range(32):
        tiny.looked(0.0001, True)
    assert "shorter than a look-up" in tiny.reason


def test_one_input_in_64_is_always_looked_up():
    inputs = [[Tensor(DType.INT32, (1,), number.to_bytes(4, "little"))] for number in range(20_000)]
    chosen = [is_sampled(each) for each in inputs]
    assert 200 < sum(chosen) < 450
    assert chosen == [is_sampled(each) for each in inputs]


def test_at_hand_is_bounded_in_bytes_age_and_owner():
    local = LocalCache(8192)
    outputs = [Tensor(DType.UINT8, (500,), bytes(500))]
    for number in range(20):
        local.put("me", b"%d" % number, outputs, now=0, life_s=100)
    assert len(local) == 5
    assert local.size_bytes <= 8192
    assert local.get("me", b"19", 1) is not None
    assert local.get("you", b"19", 1) is None
    assert local.get("me", b"19", MOST_AGE_S) is None
    local.put("me", b"short", outputs, now=0, life_s=2)
    assert local.get("me", b"short", 1.9) is not None
    assert local.get("me", b"short", 2) is None
    local.put("me", b"a:1", outputs, now=0, life_s=2)
    local.forget(b"a:")
    local.expire(MOST_AGE_S)
    assert (len(local), local.size_bytes) == (0, 0)


def test_bytes_are_counted_within_a_life():
    budget = Budget(160)
    assert budget.admit(600, 1000, now_s=0)
    assert not budget.admit(600, 1000, now_s=100)
    assert budget.admit(400, 1000, now_s=100)
    assert budget.admit(600, 1000, now_s=200)  # what came first has expired
    assert not budget.admit(1, 1000, now_s=200)
    budget.read({budget.index(200): 5})
    assert budget.admit(900, 1000, now_s=200)


def test_the_most_frequent_inputs_of_the_last_hour():
    frequent = Frequent(limit_bytes=4000)

    def inputs(number: int) -> list[Tensor]:
        return [Tensor(DType.UINT8, (100,), bytes([number]) * 100)]

    for number in range(5):
        for _ in range(number + 1):
            frequent.saw(b"%d" % number, inputs(number), now=0)
    assert frequent.top(2, now=10) == [inputs(4), inputs(3)]
    assert len(frequent.top(10, now=10)) == 4  # what came once is not kept
    assert frequent.top(1, now=2000) == [inputs(4)]
    assert frequent.top(1, now=9000) == []
    for number in range(200):
        for _ in range(2):
            frequent.saw(b"n%d" % number, inputs(number), now=9000)
    assert frequent.size_bytes <= 4000


def test_what_is_told_of_inputs_are_those_that_repeat_each_with_its_bytes_once_a_period():
    frequent = Frequent()

    def came(number: int, times: int, now: float = 0) -> None:
        for _ in range(times):
            frequent.saw(b"%d" % number, [Tensor(DType.UINT8, (1,), bytes([number]))], now)

    for number, times in ((1, 1), (2, 5), (3, 9), (4, 2)):
        came(number, times)
    told = frequent.news(2)
    assert [(digest, times) for digest, times, _ in told] == [(b"3", 9), (b"2", 5)]
    assert [inputs for *_, inputs in told] == [[Tensor(DType.UINT8, (1,), bytes([number]))] for number in (3, 2)]
    assert frequent.news(2) == []
    came(3, 1)
    assert frequent.news(2) == [(b"3", 1, None)]
    came(3, 1, now=2000)
    (again,) = frequent.news(2)
    assert again[2] is not None  # what was told may have expired


def test_counts_of_all_servers_are_added_and_what_is_forged_is_none():
    shared = SharedInputs(b"model")
    one, two = shared.member(b"1" * 32), shared.member(b"2" * 32)
    replies = [[one, b"5", two, b"4", b"nonsense", b"99"], [two, b"3", one, b"-inf"]]
    assert shared.most_frequent(replies, 9) == [two, one]
    assert shared.most_frequent(replies, 1) == [two]
    inputs = [Tensor(DType.FLOAT, (1,), bytes(4)), Tensor(DType.STRING, (1,), b"a\0")]
    value = shared.encode(one, inputs)
    assert shared.decode(one, value, 2) == inputs
    for wrong in ((two, value, 2), (one, value, 1), (one, value[:-1], 2)):
        with pytest.raises(WrongType):
            shared.decode(*wrong)
    assert shared.counters(3600) == [shared.counter(3601), shared.counter(1800)]
    assert SharedInputs(b"other").key(one) != shared.key(one)


def test_refusals_turn_off_what_was_refused_for_a_while():
    breaker = CircuitBreaker()
    assert breaker.insert_failed("OOM command not allowed", 100) == "oom"
    assert breaker.allows_lookups(100)
    assert not breaker.allows_inserts(109)
    assert breaker.allows_inserts(110)
    assert breaker.lookup_failed("NOPERM no", 200) == "noperm"
    assert not breaker.allows_lookups(229)
    assert not breaker.allows_inserts(229)
    assert breaker.allows_lookups(230)
    assert breaker.inserted(0.001, 300) is False
    assert breaker.inserted(1.0, 300) is True
    assert not breaker.allows_inserts(301)


def test_rows_are_taken_apart_where_they_can_be():
    one = Tensor(DType.INT16, (3, 2), bytes(range(12)))
    other = Tensor(DType.UINT8, (3,), b"abc")
    rows = rows_of([one, other], 3)
    assert rows is not None
    assert [(row[0].shape, bytes(row[0].data), bytes(row[1].data)) for row in rows] == [
        ((1, 2), bytes(range(at, at + 4)), b"abc"[i : i + 1]) for i, at in enumerate((0, 4, 8))
    ]
    assert rows_of([one], 2) is None
    assert rows_of([Tensor(DType.STRING, (1,), b"\0")], 1) is None
    assert rows_of([Tensor(DType.UINT8, (), b"a")], 1) is None
