"""A chatbot that keeps nothing: its model, its vocabulary and the state of every conversation live in Redis.

    python -m examples.chatbot          a chat in the terminal
    python -m examples.chatbot web      a chat in the browser

`dialogues` makes conversations of `dialogues.toml`; `network` and `training` learn them; `script` turns text into
numbers, inside the server; `conversation` is the program that a message passes through; `web` and `__main__` show it.
docs/chatbot.md tells the story.
"""
