"""Film recommendations that change with every click: histories, model and the log of clicks live in Redis.

    python -m examples.recommendation            a page in the browser, and a trainer beside it
    python -m examples.recommendation follow     a trainer alone
    python -m examples.recommendation measure    recall beside popularity, time per click, publishing under load

`ratings` reads MovieLens; `network` and `training` learn it; `shift` puts a film at the end of a history, inside the
server; `clicks` is the one command of a click; `follow` learns from the clicks and publishes; `web` shows it.
docs/recommendation.md tells the story.
"""
