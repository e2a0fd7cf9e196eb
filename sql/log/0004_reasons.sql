-- Why an answer is empty, who wears what, the plain cosines beside what the gate saw, and the photo's own hash (SPEC §4).
alter table recognition_requests
  add column if not exists content_hash text check (content_hash ~ '^[0-9a-f]{64}$'),
  add column if not exists reason text,
  add column if not exists photo_key text;  -- where a photo kept for labelling lies (PHOTO_SAMPLE)
create index if not exists recognition_requests_content on recognition_requests (content_hash)
  where content_hash is not null;

alter table recognition_items
  add column if not exists person_index smallint not null default 0 check (person_index >= 0),
  add column if not exists reason text,
  add column if not exists pgvector_top1_cosine double precision,
  add column if not exists pgvector_margin_cosine double precision;

-- Requests that somebody wants labelled.
create table if not exists labelling_list (
  request_id uuid primary key references recognition_requests (id) on delete cascade,
  added_by text not null,
  note text not null default '',
  added_at timestamptz not null default now()
);

-- Counters that all processes of a service share, for limits.
create table if not exists unde_counters (
  name text not null,
  key text not null,
  period timestamptz not null,
  count integer not null default 0,
  primary key (name, key, period)
);

create table if not exists unde_leases (
  name text primary key,
  holder text not null,
  taken_at timestamptz not null default now(),
  beat_at timestamptz not null default now()
);
