"""The same as the pages, as JSON: reads and actions under /api/v1, described by an OpenAPI document.

app.py       all of it as one ASGI application
reads.py     what can be looked at;   deeds.py    what can be done
asked.py     what requests may hold;  problem.py  how it answers what goes wrong
"""
