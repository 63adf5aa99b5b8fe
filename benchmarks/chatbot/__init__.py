"""A chatbot that keeps its state in Redis, written in three ways and measured side by side: docs/chatbot.md.

    python -m benchmarks.chatbot            a table; with --write also results.jsonl, a plot and the page's table
    python -m benchmarks.chatbot --smoke    once and briefly: shows that it works, not how fast

Ours is one AI.DAGEXECUTE per message. The other two are the traditional program: an HTTP service that reads the state
from Redis, runs the same model in its own process, and writes the state back; `flask_program` under gunicorn,
`fastapi_program` under uvicorn.
"""
