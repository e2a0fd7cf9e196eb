-- Products, stores and the history of stock (SPEC §4). The category of the shop is kept beside the canonical one.
create table raw_products (
  id bigint generated always as identity primary key,
  source text not null,
  external_id text not null check (external_id <> ''),
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  style_id text,
  name text,
  description text,
  price numeric check (price >= 0),
  currency text check (currency ~ '^[A-Z]{3}$'),
  category text,
  category_canonical text not null default 'other'
    check (category_canonical in ('top','outerwear','dress','bottom','shoes','bag','hat','accessory','other')),
  gender text,
  colour text,
  composition text,
  sizes jsonb not null default '[]' check (jsonb_typeof(sizes) = 'array'),
  image_urls jsonb not null default '[]' check (jsonb_typeof(image_urls) = 'array'),
  image_views jsonb not null default '[]' check (jsonb_typeof(image_views) = 'array'),
  collage_url text,
  image_status text not null default 'pending' check (image_status in ('pending','uploaded','collage_ready')),
  ximilar_status text not null default 'pending' check (ximilar_status in ('pending','partial','synced')),
  index_scope text not null default 'pgvector' check (index_scope in ('off','pgvector','pilot')),
  ximilar_synced_urls jsonb not null default '[]' check (jsonb_typeof(ximilar_synced_urls) = 'array'),
  ximilar_target_count smallint not null default 2 check (ximilar_target_count >= 0),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (source, external_id),
  unique (brand, external_id),
  check (jsonb_array_length(image_views) = jsonb_array_length(image_urls))
);
create index raw_products_style on raw_products (brand, style_id) where style_id is not null;
create index raw_products_category on raw_products (category_canonical, price);

create table raw_stores (
  id bigint generated always as identity primary key,
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  store_id text not null check (store_id <> ''),
  name text not null,
  address text,
  city text,
  country text,
  mall_name text,
  floor text,
  latitude double precision check (latitude between -90 and 90),
  longitude double precision check (longitude between -180 and 180),
  unique (brand, store_id)
);
create index raw_stores_mall on raw_stores (mall_name, brand);

-- One row a (brand, store, product, UTC day); an hourly poll refreshes it, never with an older reading.
create table raw_availability (
  brand text not null check (brand ~ '^[a-z0-9]+(_[a-z0-9]+)*$'),
  store_id text not null,
  product_id text not null,
  sizes_in_stock jsonb not null check (jsonb_typeof(sizes_in_stock) = 'array'),
  fetched_at timestamptz not null
);
create unique index raw_availability_day on raw_availability (brand, store_id, product_id, ((fetched_at at time zone 'UTC')::date));
create index raw_availability_newest on raw_availability (brand, store_id, product_id, fetched_at desc);
create index raw_availability_product on raw_availability (brand, product_id, fetched_at desc);
create index raw_availability_fetched on raw_availability (fetched_at desc);
