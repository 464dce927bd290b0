"""The guarded web server: which requests reach Dagster's UI, on which address, and how it is served.

Must not read the database or the settings: what it needs is in its command line.
"""
