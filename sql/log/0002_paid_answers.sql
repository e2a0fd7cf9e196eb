-- What was paid for once: tags, verdicts and booster lists by content hash, so that the same photo is never paid for twice.
create table paid_answers (
  kind text not null,
  key text not null check (key ~ '^[0-9a-f]{64}$'),
  value jsonb not null,
  created_at timestamptz not null default now(),
  primary key (kind, key)
);
create index paid_answers_created on paid_answers (created_at);
