-- Category as evidence, perceptual hashes, other widths, and versions that are chosen rather than guessed (SPEC §4, §6).
alter table sku_image_embeddings
  add column if not exists category_canonical text
    check (category_canonical in ('top','outerwear','dress','bottom','shoes','bag','hat','accessory','other')),
  add column if not exists phash bigint,
  add column if not exists embedding_other vector;
-- A version has one width: 512 lies in `embedding`, any other in `embedding_other`.
alter table sku_image_embeddings alter column embedding drop not null;
alter table sku_image_embeddings alter column embedding_other set storage plain;
do $$ begin
  if not exists (select 1 from pg_constraint where conname = 'sku_image_embeddings_one_vector'
                 and conrelid = 'sku_image_embeddings'::regclass) then
    alter table sku_image_embeddings add constraint sku_image_embeddings_one_vector
      check (num_nonnulls(embedding, embedding_other) = 1);
  end if;
end $$;
create index if not exists sku_image_embeddings_category on sku_image_embeddings (model_version, category_canonical);

alter table embedding_versions
  add column if not exists partial boolean not null default false,
  add column if not exists products integer,
  add column if not exists photos integer,
  add column if not exists brands jsonb,
  add column if not exists weights_sha256 text,
  add column if not exists crop_recipe text;

-- Which version a namespace reads is decided by people and runs, and every decision is kept.
create table if not exists version_choices (
  id bigint generated always as identity primary key,
  namespace text not null default 'default',
  version text not null,
  action text not null check (action in ('use','drop')),
  chosen_by text not null,
  reason text not null default '',
  chosen_at timestamptz not null default now()
);
create index if not exists version_choices_newest on version_choices (namespace, id desc);

create table if not exists unde_leases (
  name text primary key,
  holder text not null,
  taken_at timestamptz not null default now(),
  beat_at timestamptz not null default now()
);
