"""The truth, as rows: tables, what the coordinator writes, what everybody reads, migrations, retention."""
