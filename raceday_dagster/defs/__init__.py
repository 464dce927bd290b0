"""Dagster, thin: ops that call the stages, jobs that wire the ops, resources that own what they share.

Must not import ``dagster._*``, nor hold SQL, HTTP or arithmetic: a stage's value or error becomes outputs, metadata and
log lines here. No module postpones its annotations: Dagster reads them.
"""
