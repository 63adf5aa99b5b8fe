"""One or more examples of every command: the words, and the reply as the docs write it; tests parse them all.

`<bytes>` and `<text>` stand for data. Replies: `+simple`, `-error`, `:integer`, `"bulk"`, `[array]`.
"""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[bytes, tuple[tuple[str, str], ...]] = {
    b"AI.TENSORSET": (
        (
            "AI.TENSORSET t FLOAT 2 2 VALUES 0.5 1 -2 3e1",
            "+OK",
        ),
        (
            "AI.TENSORSET s FLOAT VALUES 5",
            "+OK",
        ),
        (
            "AI.TENSORSET u UINT8 1 VALUES 256",
            "-ERR invalid value",
        ),
    ),
    b"AI.TENSORGET": (
        (
            "AI.TENSORGET t META",
            '["dtype", "FLOAT", "shape", [:2, :2]]',
        ),
        (
            "AI.TENSORGET t VALUES",
            '["0.5", "1", "-2", "30"]',
        ),
        (
            "AI.TENSORGET absent",
            "-ERR tensor key is empty or in a different shard",
        ),
    ),
    b"AI.MODELSTORE": (
        (
            "AI.MODELSTORE net ONNX CPU TAG v7 BATCHSIZE 8 BLOB <bytes>",
            "+OK",
        ),
        (
            "AI.MODELSTORE mul TF cpu:1 INPUTS 2 a b OUTPUTS 1 mul BLOB <bytes>",
            "+OK",
        ),
    ),
    b"AI.MODELSET": (
        (
            "AI.MODELSET mul TF CPU TAG v1 INPUTS a b OUTPUTS mul BLOB <bytes>",
            "+OK",
        ),
        (
            "AI.MODELSET pt TORCH BLOB <bytes>",
            "-ERR Invalid DEVICE",
        ),
    ),
    b"AI.MODELGET": (
        (
            "AI.MODELGET net META",
            '["backend", "ONNX", "device", "CPU", "tag", "v7", "batchsize", :8, "minbatchsize", '
            ':0, "inputs", ["x"], "outputs", ["y"], "minbatchtimeout", :0]',
        ),
        (
            "AI.MODELGET absent",
            "-ERR model key is empty",
        ),
    ),
    b"AI.MODELDEL": (
        (
            "AI.MODELDEL net",
            "+OK",
        ),
        (
            "AI.MODELDEL absent",
            "-ERR model key is empty",
        ),
    ),
    b"AI._MODELSCAN": (
        (
            "AI._MODELSCAN",
            '[["net", "v7"], ["mul", ""]]',
        ),
    ),
    b"AI.MODELEXECUTE": (
        (
            "AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z",
            "+OK",
        ),
        (
            "AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z TIMEOUT 5",
            "+TIMEDOUT",
        ),
        (
            "AI.MODELEXECUTE mul INPUTS 2 x y OUTPUTS 1 z NOW",
            "-Invalid argument: NOW",
        ),
    ),
    b"AI.MODELRUN": (
        (
            "AI.MODELRUN mul TIMEOUT 100 INPUTS x y OUTPUTS z",
            "+OK",
        ),
        (
            "AI.MODELRUN mul NOINPUTS x y OUTPUTS z",
            "-ERR INPUTS not specified",
        ),
    ),
    b"AI.SCRIPTSTORE": (
        (
            "AI.SCRIPTSTORE pre CPU TAG v2 ENTRY_POINTS 2 norm crop SOURCE <text>",
            "+OK",
        ),
        (
            "AI.SCRIPTSTORE pre TPU ENTRY_POINTS 1 norm SOURCE <text>",
            "-ERR unsupported device",
        ),
    ),
    b"AI.SCRIPTSET": (
        (
            "AI.SCRIPTSET old CPU SOURCE <text>",
            "+OK",
        ),
        (
            "AI.SCRIPTSET old CPU TEXT <text>",
            "-ERR Insufficient arguments, missing script SOURCE",
        ),
    ),
    b"AI.SCRIPTGET": (
        (
            "AI.SCRIPTGET pre META",
            '["device", "CPU", "tag", "v2", "Entry Points", ["norm", "crop"]]',
        ),
        (
            "AI.SCRIPTGET absent",
            "-ERR script key is empty",
        ),
    ),
    b"AI.SCRIPTDEL": (
        (
            "AI.SCRIPTDEL old",
            "+OK",
        ),
    ),
    b"AI._SCRIPTSCAN": (
        (
            "AI._SCRIPTSCAN",
            '[["pre", "v2"]]',
        ),
    ),
    b"AI.SCRIPTEXECUTE": (
        (
            "AI.SCRIPTEXECUTE pre norm INPUTS 1 img OUTPUTS 1 x",
            "+OK",
        ),
        (
            "AI.SCRIPTEXECUTE pre norm KEYS 1 cfg{7} ARGS 2 0.5 abc OUTPUTS 1 x{7}",
            "+OK",
        ),
        (
            "AI.SCRIPTEXECUTE pre norm INPUTS 1 img TIMEOUT 9 OUTPUTS 1 x",
            "-ERR Encountered problem parsing AI.SCRIPTEXECUTE",
        ),
    ),
    b"AI.SCRIPTRUN": (
        (
            "AI.SCRIPTRUN old addn INPUTS a $ b1 b2 OUTPUTS c",
            "+OK",
        ),
        (
            "AI.SCRIPTRUN old addn INPUTS $ a $ b OUTPUTS c",
            "-ERR Already encountered a variable size list of tensors",
        ),
    ),
    b"AI.DAGEXECUTE": (
        (
            "AI.DAGEXECUTE LOAD 1 a PERSIST 1 r |> AI.TENSORSET b FLOAT 2 1 VALUES 3 4 |> "
            "AI.MODELEXECUTE add2 INPUTS 2 a b OUTPUTS 1 r |> AI.TENSORGET r VALUES",
            '[+OK, +OK, ["4", "6"]]',
        ),
        (
            "AI.DAGEXECUTE LOAD 1 a PERSIST 1 a EX 60 IFUNCHANGED |> AI.MODELEXECUTE step INPUTS 1 a OUTPUTS 1 a",
            "[+OK]",
        ),
    ),
    b"AI.DAGEXECUTE_RO": (
        (
            "AI.DAGEXECUTE_RO LOAD 1 a |> AI.MODELEXECUTE add2 INPUTS 2 a a OUTPUTS 1 q |> AI.TENSORGET q VALUES",
            '[+OK, ["2", "4"]]',
        ),
    ),
    b"AI.DAGRUN": (
        (
            "AI.DAGRUN |> AI.TENSORSET x FLOAT 1 VALUES 3 |> AI.TENSORGET x VALUES",
            '[+OK, ["3"]]',
        ),
    ),
    b"AI.DAGRUN_RO": (
        (
            "AI.DAGRUN_RO LOAD 1 a |> AI.SCRIPTRUN s f INPUTS a OUTPUTS q |> AI.TENSORGET q VALUES",
            '[+OK, ["1", "2"]]',
        ),
    ),
    b"AI.INFO": (
        (
            "AI.INFO net",
            '["key", "net", "type", "MODEL", "backend", "ONNX", "device", "CPU", "tag", "v7", '
            '"duration", :5310, "samples", :16, "calls", :9, "errors", :1]',
        ),
        (
            "AI.INFO net RESETSTAT",
            "+OK",
        ),
        (
            "AI.INFO sometensor",
            "-ERR cannot find run info for key",
        ),
    ),
    b"AI.CONFIG": (
        (
            "AI.CONFIG GET MODEL_CHUNK_SIZE",
            ":535822336",
        ),
        (
            "AI.CONFIG MODEL_CHUNK_SIZE 0",
            "-ERR MODEL_CHUNK_SIZE: invalid chunk size",
        ),
        (
            "AI.CONFIG SET MODEL_CHUNK_SIZE 5",
            "-ERR unsupported subcommand",
        ),
    ),
}
