"""Ports and their implementations: the only place that talks to DuckDB, MLflow and file systems.  No Prefect here."""
