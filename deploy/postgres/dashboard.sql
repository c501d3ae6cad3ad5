-- A user of PostgreSQL that may look and change nothing, for the dashboard and for people:
--     psql -d broker_jobs -f deploy/postgres/dashboard.sql
-- once, after a coordinator has made the tables (in the schema broker_jobs). What acts goes over RabbitMQ.
CREATE ROLE dashboard LOGIN PASSWORD 'change-me';
GRANT USAGE ON SCHEMA broker_jobs TO dashboard;
GRANT SELECT ON ALL TABLES IN SCHEMA broker_jobs TO dashboard;
-- Tables that later versions add: run it again with the name of the coordinators' user, where that is another.
ALTER DEFAULT PRIVILEGES FOR ROLE broker_jobs IN SCHEMA broker_jobs GRANT SELECT ON TABLES TO dashboard;
