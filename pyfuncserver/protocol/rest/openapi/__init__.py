"""The OpenAPI 3.1 document of the paths that this server answers, made from the loaded model.

A dialect's part is a module of its own; :mod:`.document` puts them together.
"""
