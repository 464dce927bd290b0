"""An embedded PostgreSQL, a simulated API, the environment of a command that names both, and the demo on top of them.

Must not import ``defs``, ``service`` or the pages. Data that it invents goes into no database but its own.
"""
