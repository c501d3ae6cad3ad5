"""Shows what the store knows and acts by commands: pages, a JSON API, and who may do what.

    views.py     what is shown, as plain values: pages and API show the same
    masking.py   what must not be shown; applied where views are made, and nowhere else
    lookup.py    store rows become views
    actions.py   what a person may do becomes a command, with their name in it
    access.py    who asks, what they may do, and whether their own page sent the request
    live.py      what has changed, told to open pages
    pages/       one module a page, with templates/ and static/
    api/         the same as JSON, under /api/v1
    site.py      all of it as one ASGI application;   wsgi.py the same for WSGI
"""
