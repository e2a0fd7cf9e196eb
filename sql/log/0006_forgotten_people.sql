-- Who has had everything deleted, and when (a hash, no name): what such a person asked before that is not written any
-- more, though it was still being answered, waited in a queue, or lay in the journal of a killed process. `purge` clears it.
create table if not exists forgotten_people (
  person text primary key check (person ~ '^[0-9a-f]{64}$'),
  at timestamptz not null
);
