"""A command's own world on one machine: an embedded PostgreSQL, a simulated API, and the environment that names both.

Must not import ``defs``, ``service`` or the pages. Data that it invents goes into no database but its own.
"""
