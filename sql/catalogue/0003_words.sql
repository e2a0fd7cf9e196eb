-- Products as the words that name them, for search by text (SPEC §5). Filled by `catalogue.words` from raw_products: what the shop
-- says of a product, in the dictionary of its language; `digest` tells which rows are out of date.
create table if not exists product_words (
  brand text not null,
  external_id text not null,
  language text not null,
  words tsvector not null,
  digest text not null,
  primary key (brand, external_id)
);
create index if not exists product_words_words on product_words using gin (words);
