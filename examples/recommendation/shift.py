"""A film is put at the end of a history, and the oldest drops out: as a script, and as an ONNX model.

They do the same. A script is four lines that anybody can read and change; it runs in a process of its own, where it can
be stopped, and that costs. docs/recommendation.md has both durations.
"""

from __future__ import annotations

from examples.recommendation.shapes import HISTORY

__all__ = ["ENTRY_POINT", "SCRIPT", "shift_model"]

ENTRY_POINT = "shift"
SCRIPT = '''
def shift(tensors: List[Tensor], keys: List[str], args: List[str]):
    """tensors: history INT64 (1, h), film INT64 (1, 1). Returns INT64 (1, h)."""
    return torch.cat([tensors[0][:, 1:], tensors[1]], 1)
'''


def shift_model() -> bytes:
    """Inputs: history INT64 (b, HISTORY), film INT64 (b, 1).   Output: shifted INT64 (b, HISTORY)."""
    from onnx import TensorProto, helper

    int64 = TensorProto.INT64
    constants = [helper.make_tensor(name, int64, [1], [value]) for name, value in (("one", 1), ("end", HISTORY))]
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["history", "one", "end", "one"], ["younger"]),
            helper.make_node("Concat", ["younger", "film"], ["shifted"], axis=1),
        ],
        "shift",
        [
            helper.make_tensor_value_info("history", int64, ["b", HISTORY]),
            helper.make_tensor_value_info("film", int64, ["b", 1]),
        ],
        [helper.make_tensor_value_info("shifted", int64, ["b", HISTORY])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    blob: bytes = model.SerializeToString()
    return blob
