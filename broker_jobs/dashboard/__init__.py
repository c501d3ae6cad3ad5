"""Serves the dashboard: pages, a JSON API, and the access rules. It reads the store and acts by commands.

app.py           Dashboard, which a program mounts: opened by its first request;   server.py  serves it alone
middleware.py    checks every request;   auth.py  visitors, sessions, CSRF;   credentials.py  local_requests.py  role.py
store_access.py  opens the store;   context.py  what every handler uses
queries/         store rows become views;   views.py  what pages and API show;   masking.py  hides secret values
actions.py       actions become commands, with the visitor's name
alerts.py        finds problems of the running system
pages/           HTML, with templates/ and static/;   forms/  what pages submit
api/             JSON under /api/v1
sse.py           sends changes to open pages;   wsgi.py  the same application for WSGI
"""
