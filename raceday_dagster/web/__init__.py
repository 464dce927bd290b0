"""The guarded web server: which requests reach Dagster's UI and the pages of ``market``, on which address, and how.

Must not read the database: ``market`` does. Of the settings it needs ``DATABASE_URL``, all else is in its command line.
"""
