"""The server beside its peers and its limits on one machine: `python -m benchmark NAME`.

README.md says what each benchmark measures, and shows the last results.
"""
