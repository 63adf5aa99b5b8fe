"""Training data from Redis beside other places to keep it, in one interleaved run: docs/training-data.md.

    python -m benchmarks.training_data            a table; with --write also results.jsonl and the page's table
    python -m benchmarks.training_data --smoke    once and briefly: shows that it works, not how fast

Samples are 64 floats and a label, 256 to a batch, shuffled: handwritten digits with noise, so that they compress as
real data do.
"""
