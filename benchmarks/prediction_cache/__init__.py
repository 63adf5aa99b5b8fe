"""What the prediction cache gains and costs, in one interleaved run: docs/prediction-cache.md.

    python -m benchmarks.prediction_cache            a table; with --write also results.jsonl and the page's table
    python -m benchmarks.prediction_cache --smoke    once and briefly: shows that it works, not how fast

Inputs are images of 3 x 96 x 96 floats (108 KB), drawn as Zipf(1.1) from 2 000 of them; the model is a small
convolutional network of 4 to 5 ms. A request is one DAG: the image in, ten floats out.
"""
