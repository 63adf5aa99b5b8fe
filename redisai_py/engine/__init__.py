"""The engine: loaded models, their run queues, batching, worker threads, counters, and the plan of a DAG."""
