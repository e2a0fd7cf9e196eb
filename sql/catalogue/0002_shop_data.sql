-- What the shop's own data needs: addresses, attributes, a folded id for comparing, time zones, photo files, jobs (SPEC §4, §11).
alter table raw_products
  add column if not exists product_url text,
  add column if not exists attributes jsonb not null default '{}',
  add column if not exists external_id_folded text;
-- Two ids that fold alike are one product to a person; null until the row is imported again or folded by `unde-recog`.
create unique index if not exists raw_products_folded on raw_products (brand, external_id_folded)
  where external_id_folded is not null;

alter table raw_stores add column if not exists timezone text;

-- The newest reading of each (brand, store, product), kept by the statement that writes the history: for questions over all stores.
create table if not exists availability_latest (
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  store_id text not null,
  product_id text not null,
  sizes_in_stock jsonb not null check (jsonb_typeof(sizes_in_stock) = 'array'),
  fetched_at timestamptz not null,
  primary key (brand, store_id, product_id)
);
create index if not exists availability_latest_product on availability_latest (brand, product_id);

-- One row a photo of a product: where it came from, where it lies, and why it could not be fetched.
create table if not exists photo_files (
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  external_id text not null,
  position smallint not null check (position >= 0),
  source_url text not null,
  storage_key text,
  etag text,
  content_hash text check (content_hash ~ '^[0-9a-f]{64}$'),
  state text not null default 'pending' check (state in ('pending','fetched','failed')),
  failure_kind text,
  attempts smallint not null default 0,
  next_try_at timestamptz,
  fetched_at timestamptz,
  primary key (brand, external_id, position)
);
create index if not exists photo_files_due on photo_files (state, next_try_at);

-- Images sent to the booster's collection: nothing that was acknowledged is sent twice.
create table if not exists booster_images (
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  external_id text not null,
  image_url text not null,
  record_id text not null,
  state text not null check (state in ('sending','acknowledged','failed','deleted')),
  credits integer not null default 0 check (credits >= 0),
  detail text not null default '',
  changed_at timestamptz not null default now(),
  primary key (brand, external_id, image_url)
);
create index if not exists booster_images_state on booster_images (state, changed_at);

-- Runs of the jobs, for `unde-recog jobs`.
create table if not exists job_runs (
  id uuid primary key,
  job text not null,
  state text not null check (state in ('running','done','failed','stopped')),
  counts jsonb not null default '{}',
  failures jsonb not null default '{}',
  detail text not null default '',
  started_at timestamptz not null default now(),
  beat_at timestamptz not null default now(),
  finished_at timestamptz
);
create index if not exists job_runs_job on job_runs (job, started_at desc);

-- Locks that work behind a pooler in transaction mode: a row with a heartbeat that says who holds it.
create table if not exists unde_leases (
  name text primary key,
  holder text not null,
  taken_at timestamptz not null default now(),
  beat_at timestamptz not null default now()
);
