"""Shows what the store knows and acts by commands: pages, a JSON API, and who may do what.

dashboard.py what a program mounts: opened by the first request;   server.py serves it alone
house.py     opens the store;   desk.py what every page is handed
views.py     what is shown, as plain values: pages and API show the same
masking.py   what must not be shown; applied where views are made, and nowhere else
lookup/      store rows become views
actions.py   what a person may do becomes a command, with their name in it
guard.py     stands before every request;   access.py who asks, and what they may do;   role.py names it
live.py      what has changed, told to open pages
pages/       one module a page, with templates/ and static/;   frame.py what each of them has
api/         the same as JSON, under /api/v1
site.py      all of it as one ASGI application;   wsgi.py the same for WSGI
"""
