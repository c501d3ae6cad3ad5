"""Serves the content of the pages as JSON under /api/v1, described by an OpenAPI document.

app.py             builds the API and its OpenAPI document
reads.py           GET;   actions.py  POST, PUT, PATCH, DELETE
request_models.py  parameters and bodies;   errors.py  error responses
"""
