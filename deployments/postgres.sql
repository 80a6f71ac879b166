-- The three databases of one team, owned by the role that makes them: the ledger is made by PostgreSQL's image.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
\connect prefect
-- Prefect searches by similarity of text.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
