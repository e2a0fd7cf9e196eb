-- One row a photo, so that the best view of a SKU wins (SPEC §4). HNSW indexes are partial, one a model version (and one a large
-- brand), built by `unde-recog index` after the load: vectors of different versions never meet in one index.
create extension if not exists vector;

create table sku_image_embeddings (
  id bigint generated always as identity primary key,
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  sku_id text not null,
  image_url text not null,
  image_rank smallint not null check (image_rank between 0 and 6),
  image_hash text not null check (image_hash ~ '^[0-9a-f]{64}$'),
  embedding vector(512) not null,
  model_version text not null check (model_version <> ''),
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  unique (brand, sku_id, image_hash, model_version)
);
-- 8.3 times faster exact scans than the default, which moves 2 kB values out of line (MEASURED).
alter table sku_image_embeddings alter column embedding set storage plain;
create index sku_image_embeddings_brand on sku_image_embeddings (brand);
create index sku_image_embeddings_sku on sku_image_embeddings (model_version, brand, sku_id);

create table item_embeddings (
  org_id uuid not null default '00000000-0000-0000-0000-000000000000',
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  item_id text not null,
  image_hash text not null default '',
  namespace text not null default 'default',
  version text not null check (version <> ''),
  modality text not null check (modality in ('text','image')),
  dims smallint not null check (dims > 0),
  vector vector not null,
  metadata_hash text,
  generated_at timestamptz not null default now(),
  primary key (org_id, brand, item_id, image_hash, namespace, version, modality),
  check (vector_dims(vector) = dims)
);
create index item_embeddings_version on item_embeddings (namespace, version, modality, brand);

-- Which versions exist, and which are complete: a namespace reads BLEND_EMBEDDING_VERSION or the newest complete one.
create table embedding_versions (
  namespace text not null default 'default',
  version text not null check (version <> ''),
  model text not null,
  dims smallint not null check (dims > 0),
  status text not null default 'building' check (status in ('building','complete')),
  report jsonb not null default '{}',
  created_at timestamptz not null default now(),
  completed_at timestamptz,
  primary key (namespace, version)
);

-- Photos that could not be embedded, by class of error; a later success removes the row.
create table embedding_failures (
  brand text not null,
  sku_id text not null,
  image_url text not null,
  version text not null,
  kind text not null,
  detail text not null default '',
  tried_at timestamptz not null default now(),
  primary key (version, brand, sku_id, image_url)
);
