"""The schema's history, as Alembic keeps it: a new version is added, an old one never changes."""
